#!/bin/sh
# Unpacks the bundle beside this script, and makes an environment for it on top of what this machine
# has. Nothing is fetched: no network, no package index.
#
#   sh unbundle.sh [FOLDER]                     (by default ./trimlab)
#   PYTHON=/opt/python3.12 sh unbundle.sh       another Python than python3
#
# exit codes: 0 done, 1 the environment does not work, 2 a part or the machine is not as it must be
set -eu

fail() {
    code=$1
    shift
    echo "unbundle: $*" >&2
    exit "$code"
}

sha256_of() {
    if command -v sha256sum >/dev/null 2>&1; then
        sha256sum "$1"
    else
        shasum -a 256 "$1"
    fi | cut -d ' ' -f 1
}

# files alone, and none outside of the folder: no links, no `..`
extract='
import sys, tarfile
options = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
try:
    with tarfile.open(fileobj=sys.stdin.buffer, mode="r|gz") as archive:
        for member in archive:
            if not member.isreg() or member.name.startswith("/") or ".." in member.name.split("/"):
                sys.exit(f"unbundle: {member.name!a} is no file of a bundle")
            archive.extract(member, sys.argv[1], **options)
except Exception as error:
    sys.exit(f"unbundle: {type(error).__name__}: {error}")
'
bundle=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
target=${1:-trimlab}
case $target in /*) ;; *) target=$PWD/$target ;; esac
python=${PYTHON:-python3}
manifest=$bundle/MANIFEST

# ---- checks, before anything is written ----------------------------------------------------------
[ -f "$manifest" ] || fail 2 "$manifest is missing: copy it again"
[ ! -e "$target" ] || fail 2 "$target is there already: remove it, or name another folder"
command -v "$python" >/dev/null 2>&1 || fail 2 "there is no $python: name a Python with PYTHON=..."
wanted=$(sed -n 's/^# trimlab bundle for Python //p' "$manifest")
found=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
[ "$wanted" = "$found" ] ||
    fail 2 "the bundle is for Python $wanted, and $python is $found: name another with PYTHON=..."

bad=0
while read -r sum name; do
    [ "$sum" != '#' ] || continue
    case ${name#trimlab-bundle.tar.gz.} in '' | *[!0-9]*)
        fail 2 "$manifest names $name, which is no part of a bundle: copy it again" ;;
    esac
    if [ ! -f "$bundle/$name" ]; then
        echo "unbundle: $name is missing: copy it again" >&2
        bad=1
    elif [ "$(sha256_of "$bundle/$name")" != "$sum" ]; then
        echo "unbundle: $name is damaged: copy it again" >&2
        bad=1
    fi
done <"$manifest"
[ "$bad" = 0 ] || exit 2

# ---- files ---------------------------------------------------------------------------------------
echo "unpacking to $target"
mkdir -p "$target" || fail 2 "cannot make $target: name another folder"
grep -v '^#' "$manifest" | while read -r sum name; do cat "$bundle/$name"; done |
    "$python" -c "$extract" "$target" || fail 1 "the archive cannot be unpacked to $target"

# ---- environment ---------------------------------------------------------------------------------
export PIP_NO_INDEX=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0
env=$target/env
echo "making an environment in $env"
if "$python" -m venv --without-pip --system-site-packages "$env" >"$target/venv.log" 2>&1 &&
    "$python" - "$env" <<'END' && "$python" -m pip --python "$env/bin/python" install \
    --quiet --no-deps "$target"/wheels/*.whl >>"$target/venv.log" 2>&1; then
import pathlib, site, sys, sysconfig

# an environment that is made from another one sees the packages of the base Python alone
if sys.prefix != sys.base_prefix:
    packages = sysconfig.get_path("purelib", vars={"base": sys.argv[1], "platbase": sys.argv[1]})
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in site.getsitepackages()]
    pathlib.Path(packages, "of_the_machine.pth").write_text("".join(lines))
END
    : # the environment is made
else
    # no module venv, or a pip before 22.3
    echo "no virtual environment (see $target/venv.log): a folder of packages instead"
    rm -rf "$env"
    "$python" -m pip install --quiet --no-deps --target "$env/packages" "$target"/wheels/*.whl ||
        fail 1 "pip cannot install the wheels of $target/wheels"
    mkdir -p "$env/bin"
    for name in python trimlab; do
        [ "$name" = python ] && module= || module='-m trimlab.cli'
        cat >"$env/bin/$name" <<END
#!/bin/sh
PYTHONPATH='$env/packages'\${PYTHONPATH:+:\$PYTHONPATH}
export PYTHONPATH
exec "$(command -v "$python")" $module "\$@"
END
        chmod +x "$env/bin/$name"
    done
fi
"$env/bin/python" -m trimlab.bundling.check "$target/requirements.txt" ||
    fail 1 "the environment lacks what is named above: bundle it with --packages"

echo "done. To run:"
echo "  cd $target && export HF_HUB_OFFLINE=1"
sed 's/^/  /' "$target/RUN"
