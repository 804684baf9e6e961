"""shardstep.torch.ShardedOptimizer."""

from shardstep.torch import ShardedOptimizer

from gpt2 import Model, run_backward


class Shardstep:
    def __init__(self, settings, private_weights):
        self._model = Model(settings.size, settings.rank)
        self._optimizer = ShardedOptimizer(
            self._model.named_parameters(),
            lr=settings.learning_rate,
            betas=settings.betas,
            eps=settings.eps,
            weight_decay=settings.weight_decay,
            max_norm=settings.max_norm,
            private_weights=private_weights,
            options="update_threads: 1",
        )

    def step(self, source_step):
        self._model.source.step = source_step
        run_backward(self._model)
        self._optimizer.step()

    def weights(self):
        return [parameter.detach() for parameter in self._model.parameters()]
