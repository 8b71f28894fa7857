"""Tools and schemas whose answers are short, whatever a small model makes of them."""

from typing import Any

WEATHER_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"enum": ["Paris", "Rome"]}, "days": {"enum": [1, 2]}},
    "required": ["city", "days"],
}

WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {"name": "get_weather", "description": "Weather", "parameters": WEATHER_SCHEMA},
}

ASK: list[Any] = [{"role": "user", "content": "What is the weather in Paris tomorrow?"}]

# In place of the long default.
TOOL_PROMPT: dict[str, Any] = {"tool_prompt": "Answer in JSON."}
