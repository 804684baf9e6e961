#!/usr/bin/env python3
"""Usage: fused_adamw.py --parameters N --ours_ms X [--device N] [--steps N]

PyTorch's fused AdamW on fp32 masters, and the copy of them into bf16 weights, on as many parameters as our update kernel
took X ms for: prints PASS when that is not faster than ours, else FAIL, and exits with 0 or 1. Its gradients are fp32
already, as it asks; ours are bf16, and ours also scales them. What the rest of such a step costs is printed as well:
gradients to fp32, their norm, and the clip.
"""

import argparse
import statistics
import sys

import torch


def median_ms(work, steps):
    times = []
    for i in range(steps + 2):
        begin = torch.cuda.Event(enable_timing=True)
        end = torch.cuda.Event(enable_timing=True)
        begin.record()
        work()
        end.record()
        end.synchronize()
        if i >= 2:
            times.append(begin.elapsed_time(end))
    return statistics.median(times)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--ours_ms", type=float, required=True)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--steps", type=int, default=7)
    flags = parser.parse_args()
    device = torch.device("cuda", flags.device)
    torch.cuda.set_device(device)

    master = torch.nn.Parameter(torch.randn(flags.parameters, device=device))
    weights = master.detach().to(torch.bfloat16)
    gradient = torch.randn_like(weights)
    master.grad = gradient.to(torch.float32)
    optimizer = torch.optim.AdamW([master], lr=1e-3, weight_decay=0.01, fused=True)

    def update():
        optimizer.step()
        weights.copy_(master.detach())

    def whole_step():
        master.grad.copy_(gradient)
        torch.nn.utils.clip_grad_norm_([master], 1.0)
        update()

    update_ms = median_ms(update, flags.steps)
    whole_ms = median_ms(whole_step, flags.steps)
    passed = flags.ours_ms <= update_ms
    print(f"{'PASS' if passed else 'FAIL'} torch ours {flags.ours_ms:.3f} ms, torch {torch.__version__} fused AdamW and "
          f"copy {update_ms:.3f} ms, with conversion, norm and clip {whole_ms:.3f} ms; {flags.parameters} parameters")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
