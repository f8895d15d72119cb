"""Headless rendering: which OpenGL back end this machine has, and a fast renderer of MuJoCo scenes.

MuJoCo chooses its back end when it is first imported, from the variable ``MUJOCO_GL``, and with a value whose library
is missing that import itself fails. `select_backend` therefore probes with ctypes before, and every module here
imports MuJoCo through `import_mujoco`.
"""

from __future__ import annotations

import ctypes
import os
import sys
import warnings
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from polydit.platform.errors import ConfigurationError, require

EXTRA = "robotics"
"""The extra that brings gymnasium, MuJoCo and the simulators."""

VARIABLE = "MUJOCO_GL"
PACKAGES = "libegl1 libgl1 (or libosmesa6)"
"""Debian packages that bring a headless back end."""

_EGL_PLATFORM_DEVICE = 0x313F  # EGL_EXT_platform_device
_MOST_DEVICES = 16


@dataclass(frozen=True)
class RenderingBackend:
    """What renders, and why it was chosen.

    Args:
        name: "egl", "osmesa", or what the user set in ``MUJOCO_GL``; None: nothing can render, states are simulated all
            the same.
        reason: one sentence for logs and error messages.
    """

    name: str | None
    reason: str

    def __str__(self) -> str:
        return f"{self.name or 'no rendering'}: {self.reason}"


def select_backend() -> RenderingBackend:
    """Choose a headless back end and set ``MUJOCO_GL`` accordingly, before MuJoCo is imported.

    What the user set stays, unless its library is missing: then a warning says so and another is taken. Where nothing
    is found the variable is left unset, and MuJoCo simulates without rendering. Once MuJoCo is imported the choice is
    made, and only told.

    Returns:
        The choice and the reason for it.
    """
    wanted = os.environ.get(VARIABLE, "").lower().strip()
    if "mujoco" in sys.modules:
        return _describe_imported(wanted)
    if sys.platform != "linux":
        return RenderingBackend(wanted or "native", "the system's own OpenGL is used outside Linux")
    if wanted and _usable(wanted):
        return RenderingBackend(wanted, f"{VARIABLE}={wanted} was set")
    for name in ("egl", "osmesa"):
        if _usable(name):
            os.environ[VARIABLE] = name
            if wanted:
                _warn_of_missing(wanted, f"{name} is used instead")
            return RenderingBackend(name, f"{VARIABLE}={wanted} does not load" if wanted else "found by probing")
    if wanted:
        _warn_of_missing(wanted, "nothing is rendered")
        del os.environ[VARIABLE]
    return RenderingBackend(None, f"neither EGL nor OSMesa works; for camera images install {PACKAGES}")


def import_mujoco() -> ModuleType:
    """MuJoCo, imported after its back end was selected.

    Raises:
        MissingExtraError: if it is not installed.
    """
    select_backend()
    return require("mujoco", EXTRA)


def require_backend(camera: str) -> RenderingBackend:
    """The back end that renders, or an error that says what to install.

    Args:
        camera: that was asked for, named in the error.

    Raises:
        ConfigurationError: if nothing can render.
    """
    backend = select_backend()
    if backend.name is None:
        raise ConfigurationError(
            f"camera {camera!r} cannot be rendered: no OpenGL back end ({backend.reason}). "
            f"Install {PACKAGES}, or ask for no camera: states alone need no renderer"
        )
    return backend


class SceneRenderer:
    """Renders a MuJoCo scene into RGB images, with settings for speed in place of beauty.

    Shadows, reflections and multisampling are off: at 84 pixels they cost most of the time and show little. Close it
    when done, or use it in a ``with`` statement: a context left to the garbage collector at exit may crash the driver.

    Args:
        model: ``mujoco.MjModel``; its multisampling is set to 0 and its off-screen buffer enlarged where needed.
        height: of the images, pixels.
        width: of the images, pixels.
        skybox: whether the sky is drawn; without it the background is black, and frames come about twice as fast.
        geom_groups: groups of geoms that are drawn; None: MuJoCo's default, 0 to 2.

    Raises:
        ConfigurationError: if nothing can render on this machine.
    """

    def __init__(
        self, model: Any, height: int, width: int, skybox: bool = True, geom_groups: tuple[int, ...] | None = None
    ) -> None:
        require_backend("of a scene")
        mujoco = import_mujoco()
        model.vis.quality.offsamples = 0  # read when the context is made, so before it
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, width)
        model.vis.global_.offheight = max(model.vis.global_.offheight, height)
        self.model = model
        self._renderer = mujoco.Renderer(model, height, width)
        flags = self._renderer.scene.flags
        flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        flags[mujoco.mjtRndFlag.mjRND_SKYBOX] = skybox
        self._options = mujoco.MjvOption()
        if geom_groups is not None:
            self._options.geomgroup[:] = [group in geom_groups for group in range(len(self._options.geomgroup))]

    def render(self, data: Any, camera: str | int) -> NDArray[np.uint8]:
        """An image of the present state.

        Args:
            data: ``mujoco.MjData`` of the renderer's model.
            camera: name or number of a camera of the model; -1: the free camera.

        Returns:
            RGB [height, width, 3], a new array, first row at the top.
        """
        self._renderer.update_scene(data, camera, self._options)
        image: NDArray[np.uint8] = self._renderer.render()
        return image

    def close(self) -> None:
        """Release the OpenGL context; closing twice does nothing."""
        self._renderer.close()

    def __enter__(self) -> SceneRenderer:
        return self

    def __exit__(self, *failure: object) -> Literal[False]:
        self.close()
        return False


def _describe_imported(wanted: str) -> RenderingBackend:
    """The back end of a MuJoCo that is already imported: its context class tells."""
    if sys.platform != "linux":
        return RenderingBackend(wanted or "native", "MuJoCo was imported before")
    context = getattr(sys.modules.get("mujoco.gl_context"), "GLContext", None)
    name = "" if context is None else context.__module__.rpartition(".")[2].removesuffix("_context")
    if name in ("egl", "osmesa"):
        return RenderingBackend(name, f"MuJoCo was imported with {VARIABLE}={name}")
    if name and os.environ.get("DISPLAY"):
        return RenderingBackend(name, "MuJoCo was imported before, with a display")
    return RenderingBackend(None, f"MuJoCo was imported without a headless back end ({VARIABLE}={wanted!r})")


def _warn_of_missing(wanted: str, instead: str) -> None:
    warnings.warn(f"{VARIABLE}={wanted} is set, but its library does not load: {instead}", RuntimeWarning, stacklevel=3)


def _usable(name: str) -> bool:
    """Whether a back end of this name would work here."""
    if name == "egl":
        return _loads("libOpenGL.so.0", "libGL.so.1") and _has_egl_device()
    if name == "osmesa":
        return _loads("libOSMesa.so.8", "libOSMesa.so.6", "libOSMesa.so")
    return True  # glfw, off and the like: the user knows


def _loads(*names: str) -> bool:
    return any(_load(name) is not None for name in names)


def _load(name: str) -> ctypes.CDLL | None:
    try:
        return ctypes.CDLL(name)
    except OSError:
        return None


def _has_egl_device() -> bool:
    """Whether EGL finds a device that it can initialise, which is what MuJoCo will ask of it."""
    egl = _load("libEGL.so.1")
    if egl is None:
        return False
    egl.eglGetProcAddress.restype = ctypes.c_void_p
    query, display_of = (egl.eglGetProcAddress(name) for name in (b"eglQueryDevicesEXT", b"eglGetPlatformDisplayEXT"))
    if not query or not display_of:
        return False
    devices, count = (ctypes.c_void_p * _MOST_DEVICES)(), ctypes.c_int(0)
    signature = ctypes.CFUNCTYPE(ctypes.c_uint, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
    if not signature(query)(_MOST_DEVICES, ctypes.addressof(devices), ctypes.addressof(count)):
        return False
    get_display = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_uint, ctypes.c_void_p, ctypes.c_void_p)(display_of)
    egl.eglInitialize.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    displays = (get_display(_EGL_PLATFORM_DEVICE, devices[index], None) for index in range(count.value))
    return any(display and egl.eglInitialize(display, None, None) for display in displays)
