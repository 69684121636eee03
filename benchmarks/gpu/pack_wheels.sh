#!/usr/bin/env bash
# Wheels that a GPU machine without network needs beside its own torch, transformers and lightning, for Python 3.12 on
# x86-64 Linux. Run it where pip reaches an index, in the root of the repository:
#
#     bash benchmarks/gpu/pack_wheels.sh [FOLDER]                    # default .whl; about 6 MB
#     EXTRA="torchao liger" bash benchmarks/gpu/pack_wheels.sh       # FP8 and fused kernels to compare with; 4 MB more
#
# On the GPU machine, in the root of the repository:
#
#     pip install --no-index --no-deps FOLDER/*.whl && pip install --no-deps --no-build-isolation . && python -m benchmarks.gpu
set -euo pipefail

folder=${1:-.whl}
python=${PYTHON:-python3}
mkdir -p "$folder"
rm -f "$folder"/*.whl

# Pure Python, or one wheel for every Python: what hydra, the data and the tests ask for and GPU images seldom have.
names="hydra-core omegaconf webdataset braceexpand easy-vqa beartype"
platforms=""
for glibc in 2_28 2_27 2_24 2_17; do platforms="$platforms --platform manylinux_${glibc}_x86_64"; done
platforms="$platforms --platform manylinux2014_x86_64 --platform manylinux1_x86_64"

pins=$(mktemp)
trap 'rm -f "$pins"' EXIT
if [ -f constraints.txt ]; then grep -v '^#' constraints.txt >"$pins"; fi
# antlr4 4.9.3 is what omegaconf 2.3 needs; it is published as source only, so it is built here (pure Python).
download() { "$python" -m pip download -q --no-deps --only-binary=:all: --python-version 3.12 --implementation cp \
    $platforms -c "$pins" -d "$folder" "$@"; }

download $names
"$python" -m pip wheel -q --no-deps -w "$folder" antlr4-python3-runtime==4.9.3
for extra in ${EXTRA:-}; do
    case $extra in
        torchao) download torchao==0.17.0 ;;   # its compiled part is for torch 2.11 and later
        liger) download liger-kernel ;;
        *) download "$extra" ;;
    esac
done

# One version of each, or the install stops; and nothing that belongs to the machine itself.
twice=$(for wheel in "$folder"/*.whl; do basename "$wheel" | cut -d- -f1; done | tr 'A-Z' 'a-z' | sort | uniq -d)
[ -z "$twice" ] || { echo "two wheels of: $twice" >&2; exit 1; }
for wheel in "$folder"/*.whl; do
    case $(basename "$wheel") in
        *-none-any.whl | *cp312-cp312-*x86_64.whl | *abi3*x86_64.whl) ;;
        *) echo "$wheel is not for Python 3.12 on x86-64" >&2; exit 1 ;;
    esac
done
ls -l "$folder" | awk 'NR > 1 {sum += $5; print $5, $NF} END {printf "%.1f MB in all\n", sum / 1e6}'
