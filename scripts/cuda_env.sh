# To be sourced in the project's root: NVIDIA's compiler as a library, and numpy, in .venv-cuda; NVRTC on the library path.
[ -x .venv-cuda/bin/python ] || "${PYTHON:-python3}" -m venv .venv-cuda
.venv-cuda/bin/pip install --quiet --disable-pip-version-check -r scripts/requirements-cuda.txt
lib="$(.venv-cuda/bin/python -c 'import nvidia.cuda_nvrtc as m; print(m.__path__[0] + "/lib")')"
export LD_LIBRARY_PATH="$lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
