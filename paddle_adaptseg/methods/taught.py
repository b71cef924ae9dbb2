"""What methods share whose network, the student, learns the labels that a mean teacher gives to the target."""

from __future__ import annotations

from paddle_adaptseg.methods.base import Clock, Method
from paddle_adaptseg.methods.teacher import MeanTeacher, copy_network
from paddle_adaptseg.models.segmenter import Segmenter

EVALUATED = ("student", "teacher")


class Taught(Method):
    """A student and its mean teacher, one of which is evaluated. Both start from the same weights."""

    teacher: MeanTeacher  # set by the constructor of each method, which knows how it follows and labels
    evaluated: str

    @property
    def eval_model(self) -> Segmenter:
        return self.teacher.network if self.evaluated == "teacher" else self.segmenter

    def loaded(self) -> None:
        copy_network(self.segmenter, self.teacher.network)

    def train(self, *mode: bool) -> Method:
        super().train(*mode)
        self.teacher.set_modes()
        return self

    def after_step(self, clock: Clock) -> None:
        self.teacher.after_step(self.segmenter, clock.step)
