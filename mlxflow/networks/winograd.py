"""3x3 convolution by Winograd's minimal filtering F(2x2, 3x3): 16 products for 4 outputs instead of 36.

    Y = A^T [ (G g G^T) * (B^T d B) ] A        (Lavin & Gray 2016, "Fast Algorithms for CNNs", eq. 8 and section 4.1)

d is a 4x4 tile of the input, g the kernel, Y a 2x2 tile of the output, * an elementwise product; summed over input
channels it becomes 16 matrix products `[tiles, I] x [I, O]`. The unfolded copy that they read is 4 times the input
instead of 9 times. Training gains twice: the backward pass is the same algorithm transposed, whose transformed
input and transformed output gradient serve the gradients of both the input and the kernel.

Each of the three transforms is a linear map that is applied along one axis and then along the other. MLX would
differentiate the slices of the tiles by scattering; here each map has its transpose written out.
"""

from mlxflow.runtime import mx

Arrays = list[mx.array]


def _input_map(d: Arrays) -> Arrays:
    return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]


def _input_map_transposed(v: Arrays) -> Arrays:
    return [v[0], v[1] - v[2] + v[3], v[1] + v[2] - v[0], -v[3]]


def _kernel_map(g: Arrays) -> Arrays:
    ends, middle = 0.5 * (g[0] + g[2]), 0.5 * g[1]
    return [g[0], ends + middle, ends - middle, g[2]]


def _kernel_map_transposed(u: Arrays) -> Arrays:
    both = 0.5 * (u[1] + u[2])
    return [u[0] + both, 0.5 * (u[1] - u[2]), both + u[3]]


def _output_map(m: Arrays) -> Arrays:
    return [m[0] + m[1] + m[2], m[1] - m[2] - m[3]]


def _output_map_transposed(y: Arrays) -> Arrays:
    return [y[0], y[0] + y[1], y[0] - y[1], -y[1]]


def _interleave(even: mx.array, odd: mx.array, axis: int) -> mx.array:
    """e0 o0 e1 o1 ... along an axis."""
    shape = list(even.shape)
    shape[axis] *= 2
    return mx.stack([even, odd], axis=axis + 1).reshape(shape)


def _later(x: mx.array, axis: int) -> mx.array:
    """x moved by one towards the end of an axis, with a zero in front."""
    pads = [(0, 0)] * x.ndim
    pads[axis] = (1, 0)
    return mx.pad(mx.split(x, [x.shape[axis] - 1], axis=axis)[0], pads)


def _sooner(x: mx.array, axis: int) -> mx.array:
    pads = [(0, 0)] * x.ndim
    pads[axis] = (0, 1)
    return mx.pad(mx.split(x, [1], axis=axis)[1], pads)


def _join_tiles(d: Arrays, axis: int) -> mx.array:
    """The sum of overlapping tiles along one axis: tile k holds the positions 2k - 1 to 2k + 2."""
    return _interleave(d[1] + _later(d[3], axis), d[2] + _sooner(d[0], axis), axis)


@mx.custom_function
def input_tiles(x: mx.array) -> Arrays:
    """B^T d B for all 4x4 tiles of x `[B, H, W, C]` (even H and W, zeros around it): 16 arrays `[B, H/2, W/2, C]`."""
    h, w = x.shape[1:3]
    x = mx.pad(x, [(0, 0), (1, 1), (1, 1), (0, 0)])
    rows = _input_map([x[:, i : i + h - 1 : 2] for i in range(4)])
    return [v for row in rows for v in _input_map([row[:, :, j : j + w - 1 : 2] for j in range(4)])]


@input_tiles.vjp
def _input_tiles_vjp(_, cotangents, __):
    rows = [_join_tiles(_input_map_transposed(cotangents[4 * i : 4 * i + 4]), 2) for i in range(4)]
    return _join_tiles(_input_map_transposed(rows), 1)


@mx.custom_function
def kernel_tiles(weight: mx.array) -> Arrays:
    """G g G^T of a kernel `[O, 3, 3, I]`: 16 matrices `[I, O]`."""
    g = weight.transpose(1, 2, 3, 0)
    columns = [_kernel_map([g[i, j] for i in range(3)]) for j in range(3)]
    return [u for i in range(4) for u in _kernel_map([column[i] for column in columns])]


@kernel_tiles.vjp
def _kernel_tiles_vjp(_, cotangents, __):
    rows = [_kernel_map_transposed(cotangents[4 * i : 4 * i + 4]) for i in range(4)]
    columns = [_kernel_map_transposed([row[j] for row in rows]) for j in range(3)]
    return mx.stack([mx.stack([column[i] for column in columns]) for i in range(3)]).transpose(3, 0, 1, 2)


@mx.custom_function
def output_pixels(*products: mx.array) -> mx.array:
    """A^T m A of 16 arrays `[B, H/2, W/2, O]`: the pixels `[B, H, W, O]`."""
    columns = [_output_map([products[4 * i + j] for i in range(4)]) for j in range(4)]
    rows = [_interleave(*_output_map([column[a] for column in columns]), 2) for a in range(2)]
    return _interleave(*rows, 1)


@output_pixels.vjp
def _output_pixels_vjp(_, cotangent, __):
    rows = [_output_map_transposed([cotangent[:, a::2, b::2] for b in range(2)]) for a in range(2)]
    columns = [_output_map_transposed([row[j] for row in rows]) for j in range(4)]
    return tuple(columns[j][i] for i in range(4) for j in range(4))


def winograd_conv3x3(x: mx.array, weight: mx.array) -> mx.array:
    """`mx.conv2d(x, weight, padding=1)` to about 1e-6 of its largest value; x `[B, H, W, I]`, weight `[O, 3, 3, I]`.

    H and W must be even.
    """
    b, h, w, c = x.shape
    shape = (b, h // 2, w // 2, weight.shape[0])
    products = [(v.reshape(-1, c) @ u).reshape(shape) for v, u in zip(input_tiles(x), kernel_tiles(weight))]
    return output_pixels(*products)
