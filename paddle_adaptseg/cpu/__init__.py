"""What oneDNN computes in Paddle's stead on a CPU. accelerate(network) is the only door.

Paddle ships the library and ignores it when it runs eagerly. Networks and losses know nothing of it: accelerate() puts
fast classes in the place of plain ones and takes them away again.
"""

from paddle_adaptseg.cpu.accelerate import accelerate

__all__ = ["accelerate"]
