"""The OpenAI door of a serving pod: `/v1/chat/completions` and its kin, in front of the pod's Triton.

A process of its own, in the agent's image. It must answer while Triton restarts, so it is no part of Triton's
container; a long prompt costs it time on the CPU, so it is no part of the agent's process either, whose probes decide
over the pod's traffic. It needs no PyTorch: chat templates are rendered here, tokens counted, and the engine asked in
text by the interface of Triton's vLLM back end, one gRPC stream a sequence. It holds no state: whatever ends it, the
next start is as good.
"""
