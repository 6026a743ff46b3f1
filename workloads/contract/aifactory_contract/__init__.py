"""What the programs in the pods agree on, among themselves and with the operator: each thing once.

- `formats`: which files an artifact has, what must be true of them, and how it is served; one file a format.
- `engines`: which language models the server image can serve. `bytelevel`: tokens that are bytes.
- `manifest`: the digest by which an artifact is known. `uri`: where artifacts live.
- `signature`: the inputs and outputs of a served model, and the types of their tensors.
- `desired`: desired.json, which the operator writes and the agent carries out. `control`: the key to Triton.
- `names`: words that several programs have to spell alike. `errors`: reasons that reach users.
- `userjson`: JSON of strangers. `files`, `cgroup`: the two things every program needs of its machine.

What always holds: only the standard library is imported, so the same code runs in an image without PyTorch, in the
workers of Triton and in the operator's tests. What one program alone needs does not belong here.
"""
