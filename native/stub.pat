# For nanobind.stubgen, see `make stub`: values that differ from build to build are left out of the stub.

quaver._native.compiler:
    compiler: str

quaver._native.emulated:
    emulated: bool
