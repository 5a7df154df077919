"""Adam without the import of torch's compiler."""

from __future__ import annotations

import inspect

import torch


class Adam(torch.optim.Adam):
    """`torch.optim.Adam`, whose steps are the same bits, in a process that compiles nothing.

    Torch's decorators of these methods import ``torch._dynamo``. That takes two seconds of every
    process that trains, and changes nothing where no model is compiled. ``inspect.unwrap`` returns
    the functions below the decorators; in a torch without them, it returns the methods as they are.
    """

    add_param_group = inspect.unwrap(torch.optim.Adam.add_param_group)
    state_dict = inspect.unwrap(torch.optim.Adam.state_dict)
    load_state_dict = inspect.unwrap(torch.optim.Adam.load_state_dict)
    zero_grad = inspect.unwrap(torch.optim.Adam.zero_grad)
    step = torch.no_grad()(inspect.unwrap(torch.optim.Adam.step))
