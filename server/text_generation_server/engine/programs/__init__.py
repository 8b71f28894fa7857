"""The programs that the engine runs, as pure torch functions of named tensors.

Rules that keep a program compilable once and for all:
- shapes are constants; what varies (slot, length, position, parameters) comes in as a tensor, never as a
  Python number, since a number is baked into the program;
- no tensor is changed in place, nothing is read back, nothing depends on the order of Python objects;
- one small float32 array goes back to the host: [rows, 2], token and logprob. Token ids are below 2^24,
  so float32 holds them exactly, and one transfer is cheaper than two. Only requests that ask for alternatives, or for
  the logprobs of their prompt, make another array travel.

A prompt goes into its slot in pieces, without its last token; each token then takes two programs, one that runs the
model and one that chooses:

    new request:  seat -> extend (one per shape of a piece) as often as it takes -> admit
    step:         forward (one per length) -> logits -> choose (one per Processing) -> scores (-> rank)
    with drafts:  verify (one per length) -> logits of each place -> accept (one per Processing) -> scores (-> rank)

The first step after `admit` feeds the prompt's last token, and so chooses the first token of the output like any other.
While a request with a grammar is live, one more goes in between: logits -> constrain -> logits. A step with drafts
does what several steps would have done, as far as these would have chosen the drafts.

So programs add up instead of multiplying, and the choice, which compiles slowly for its size, is compiled once
for each kind. Logits and scores stay on the device.
"""
