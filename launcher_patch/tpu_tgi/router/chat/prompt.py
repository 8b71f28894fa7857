"""From a chat request to the request that is generated."""

from dataclasses import dataclass

from tpu_tgi.router.chat.messages import template_messages
from tpu_tgi.router.chat.request import ChatRequest
from tpu_tgi.router.chat.response_format import to_grammar
from tpu_tgi.router.chat.template import ChatTemplate
from tpu_tgi.router.chat.tools import call_schema, choose_tools, shown_tools, tool_text
from tpu_tgi.router.errors import ToolError, ValidationError
from tpu_tgi.router.requests.grammar import JsonGrammar
from tpu_tgi.router.requests.schemas import TemplatedRequest


@dataclass(frozen=True)
class ChatPrompt:
    """What is generated for a chat. calls_tool: the answer is the JSON of a tool call."""

    request: TemplatedRequest
    calls_tool: bool


async def chat_prompt(chat: ChatRequest, template: ChatTemplate) -> ChatPrompt:
    """Raises TemplateError, ToolError, or ValidationError for what is not supported."""
    if isinstance(chat.logit_bias, dict) and chat.logit_bias:
        raise ValidationError(
            f"`logit_bias` is not supported. Given: {len(chat.logit_bias)} tokens. Leave it out or empty"
        )
    grammar = None if chat.response_format is None else to_grammar(chat.response_format)
    if grammar is not None and chat.tools is not None:
        raise ToolError("Grammar and tools are mutually exclusive")
    tools = [] if chat.tools is None else choose_tools(chat.tools, chat.tool_choice)
    if tools:
        appended = tool_text(tools, chat.tool_prompt, template.shows_tools)
        grammar = JsonGrammar(type="json", value=call_schema(tools))
        prompt = await template.render(template_messages(chat.messages, appended), shown_tools(tools))
    else:
        prompt = await template.render(template_messages(chat.messages), None)
    penalty = chat.presence_penalty
    parameters = chat.parameters(
        max_new_tokens=chat.max_completion_tokens if chat.max_tokens is None else chat.max_tokens,
        repetition_penalty=None if penalty is None else penalty + 2.0,
        top_n_tokens=chat.top_logprobs,
        grammar=grammar,
    )
    return ChatPrompt(TemplatedRequest(inputs=prompt, parameters=parameters), bool(tools))


async def text_prompt(chat: ChatRequest, template: ChatTemplate) -> ChatPrompt:
    """For the second attempt, after the model chose to answer with text. Raises as `chat_prompt` does."""
    return await chat_prompt(chat.model_copy(update={"tools": None}), template)
