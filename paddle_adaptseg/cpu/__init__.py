"""What oneDNN computes in Paddle's stead on a CPU: where it may, in which memory, and which operations.

Paddle ships the library and ignores it when it runs eagerly. Each operation here gives what Paddle's own gives, to
rounding; where oneDNN is absent or switched off, callers take Paddle's.
"""

from paddle_adaptseg.cpu.switch import on_cpu, without_onednn

__all__ = ["on_cpu", "without_onednn"]
