"""What steps and the changes of the gradient along them tell of the curvature."""

from __future__ import annotations

from ._arrays import Array, as_array, as_tensor

MEMORY = 10


class Pairs:
    """Limited-memory BFGS in its compact form [1]_, for one model or for several.

    With the steps s and the changes y of the gradient as rows of S and Y, R the upper
    triangle of ``S Y'`` in the order of time, D its diagonal, and ``g = y'y / s'y`` of
    the newest pair, the inverse Hessian times a vector v is::

        a = inv(R) S v
        q = (v - Y' a) / g
        q + S' inv(R)' (D a - Y q)

    These are the two loops of Liu and Nocedal [2]_, each at once: a few products in
    place of two for each pair. The oldest pair leaves ``inv(R)`` by its row and column,
    since what is left of a triangle's inverse is the inverse of what is left of it; so
    the pairs need not be kept in the order of time.

    Every model has products of its own, which add up in the same order whatever the
    number of models.

    Parameters
    ----------
    like : Array of shape (n_models, n_coefficients)
        Of the dtype and on the device that are computed with.

    References
    ----------
    .. [1] R. Byrd, J. Nocedal and R. Schnabel, "Representations of quasi-Newton
       matrices and their use in limited memory methods", Mathematical Programming 63,
       1994, theorem 2.2.
    .. [2] D. Liu and J. Nocedal, "On the limited memory BFGS method for large scale
       optimization", Mathematical Programming 45, 1989.
    """

    def __init__(self, like: Array) -> None:
        n_models, length = like.shape

        def zeros(*shape: int) -> Array:
            room = as_array(as_tensor(like).new_empty((n_models, *shape)))
            room[...] = 0  # of many numbers torch's zeros wake its threads
            return room

        self.S, self.Y = zeros(MEMORY, length), zeros(MEMORY, length)
        self.St, self.Yt = self.S.swapaxes(1, 2), self.Y.swapaxes(1, 2)
        self.inverse = zeros(MEMORY, MEMORY)  # of R
        self.diagonal = zeros(MEMORY, 1)
        self.scale = zeros(1, 1) + 1
        self.next = 0  # the place of the next pair
        self.known = [False] * n_models  # whether there are pairs

    def forget(self, model: int) -> None:
        """Forget the pairs of a model."""
        for part in (self.S, self.Y, self.inverse, self.diagonal):
            part[model] = 0
        self.scale[model] = 1
        self.known[model] = False

    def keep(self, models: list[int]) -> None:
        """Go on with some of the models."""
        self.S, self.Y = self.S[models], self.Y[models]
        self.St, self.Yt = self.S.swapaxes(1, 2), self.Y.swapaxes(1, 2)
        self.inverse, self.diagonal = self.inverse[models], self.diagonal[models]
        self.scale = self.scale[models]
        self.known = [self.known[model] for model in models]

    def add(self, s: Array, y: Array) -> None:
        """Let a pair of each model take the place of the oldest.

        The place stays empty where ``s @ y`` is not positive: by rounding, as the
        objective is convex.

        Parameters
        ----------
        s, y : Array of shape (n_models, n_coefficients)
        """
        k = self.next
        self.next = (k + 1) % MEMORY
        column = y[:, :, None]
        sy, yy = s[:, None, :] @ column, y[:, None, :] @ column
        inverse = self.inverse
        inverse[:, k] = 0
        inverse[:, :, k] = 0
        self.S[:, k], self.Y[:, k] = s, y
        self.diagonal[:, k] = sy[:, 0]
        border = inverse @ (self.S @ column)
        border /= -sy
        inverse[:, :, k] = border[:, :, 0]
        inverse[:, k, k] = 1 / sy[:, 0, 0]
        good = [product > 0 for product in sy[:, 0, 0].tolist()]
        if all(good):
            self.scale = yy / sy
            self.known = good
            return
        for model, is_good in enumerate(good):
            if is_good:
                self.scale[model] = yy[model] / sy[model]
                self.known[model] = True
            else:
                for part in (self.S, self.Y, inverse, self.diagonal):
                    part[model, k] = 0
                inverse[model, :, k] = 0

    def multiply(self, v: Array) -> Array:
        """Approximate inverse Hessian of each model times a vector.

        Parameters
        ----------
        v : Array of shape (n_models, n_coefficients)
        """
        column = v[:, :, None]
        a = self.inverse @ (self.S @ column)
        q = column - self.Yt @ a
        q /= self.scale
        c = self.diagonal * a
        c -= self.Y @ q
        q += self.St @ (self.inverse.swapaxes(1, 2) @ c)
        return q[:, :, 0]
