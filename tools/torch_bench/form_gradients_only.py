"""No optimizer: what forward and backward take that all forms have."""

from gpt2 import Model, run_backward


class GradientsOnly:
    """Each gradient is dropped as soon as it is there."""

    def __init__(self, settings):
        self._model = Model(settings.size, settings.rank)
        for parameter in self._model.parameters():
            parameter.register_post_accumulate_grad_hook(self._drop)

    @staticmethod
    def _drop(parameter):
        parameter.grad = None

    def step(self, source_step):
        self._model.source.step = source_step
        run_backward(self._model)

    def weights(self):
        return [parameter.detach() for parameter in self._model.parameters()]
