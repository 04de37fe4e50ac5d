#!/bin/sh
# Installs Millstream from a release: a folder, or a URL that holds the files of one (what `scripts/package` makes).
#
#   sh install.sh --from ./dist
#   sh install.sh --from https://example.org/millstream/0.1.0 --prefix "$HOME/.local"
#   sh install.sh --from ./dist --service      the systemd unit too (as root)
#
# Without --from: the folder that this script lies in. Without --prefix: /usr/local as root, else ~/.local.
# The archive is checked against SHA256SUMS before anything of it is used.
set -eu

from= prefix= service=no
while [ $# -gt 0 ]; do
    case $1 in
        --from) from=${2:?--from needs a folder or a URL}; shift 2 ;;
        --prefix) prefix=${2:?--prefix needs a folder}; shift 2 ;;
        --service) service=yes; shift ;;
        -h | --help) sed -n '2,10s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) echo "install.sh: unknown option $1 (--help says what there is)" >&2; exit 2 ;;
    esac
done

fail() {
    echo "install.sh: $*" >&2
    exit 1
}
if [ -z "$from" ]; then
    from=$(dirname "$0")
    [ -f "$from/SHA256SUMS" ] || fail "say where the release is: --from FOLDER or --from URL"
fi
if [ -z "$prefix" ]; then
    if [ "$(id -u)" = 0 ]; then prefix=/usr/local; else prefix=$HOME/.local; fi
fi
[ "$(uname -s)" = Linux ] || fail "there is no build for $(uname -s); build it with: cargo install --path crates/millstream"
case $(uname -m) in
    x86_64 | amd64) processor=x86_64 ;;
    aarch64 | arm64) processor=aarch64 ;;
    *) fail "there is no build for $(uname -m); build it with: cargo install --path crates/millstream" ;;
esac
if [ "$service" = yes ] && [ "$(id -u)" != 0 ]; then fail "--service needs root"; fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT INT TERM
# Brings one file of the release.
fetch() {
    case $from in
        http://* | https://*)
            if command -v curl >/dev/null; then
                curl -fsSL --proto '=http,https' -o "$work/$1" "${from%/}/$1" || fail "can't download ${from%/}/$1"
            elif command -v wget >/dev/null; then
                wget -q -O "$work/$1" "${from%/}/$1" || fail "can't download ${from%/}/$1"
            else
                fail "needs curl or wget to download"
            fi ;;
        *) cp "$from/$1" "$work/$1" 2>/dev/null || fail "there is no $1 in $from" ;;
    esac
}
fetch SHA256SUMS
# The newest, where there are several.
archive=$(sed -n "s/^[0-9a-f]\{64\}  \(millstream-[0-9][^ ]*-$processor-linux\.tar\.gz\)$/\1/p" "$work/SHA256SUMS" | sort | tail -n 1)
[ -n "$archive" ] || fail "the release at $from has nothing for $processor"
fetch "$archive"
(cd "$work" && grep "  $archive\$" SHA256SUMS | sha256sum -c - >/dev/null 2>&1) ||
    fail "$archive is not what SHA256SUMS says: it is damaged, or not the one that was released"

tar -xzf "$work/$archive" -C "$work"
files=$work/${archive%.tar.gz}
"$files/bin/millstream" --version >/dev/null || fail "the program of $archive does not run here"
put() {
    mkdir -p "$(dirname "$3")"
    # Beside it first, then moved: a program that runs keeps its file.
    install -m "$1" "$2" "$3.new"
    mv -f "$3.new" "$3"
}
put 755 "$files/bin/millstream" "$prefix/bin/millstream"
put 644 "$files/man/millstream.1" "$prefix/share/man/man1/millstream.1"
put 644 "$files/completions/millstream.bash" "$prefix/share/bash-completion/completions/millstream"
put 644 "$files/completions/_millstream" "$prefix/share/zsh/site-functions/_millstream"
put 644 "$files/completions/millstream.fish" "$prefix/share/fish/vendor_completions.d/millstream.fish"
if [ "$service" = yes ]; then
    sed "s|/usr/bin/millstream|$prefix/bin/millstream|" "$files/systemd/millstream@.service" > "$work/unit"
    put 644 "$work/unit" /etc/systemd/system/millstream@.service
    mkdir -p /etc/millstream
    if command -v systemctl >/dev/null && [ -d /run/systemd/system ]; then systemctl daemon-reload; fi
    echo "service: put a pipeline at /etc/millstream/NAME.yaml, then: systemctl enable --now millstream@NAME"
fi
echo "installed $("$prefix/bin/millstream" --version) as $prefix/bin/millstream"
case :$PATH: in
    *:"$prefix/bin":*) ;;
    *) echo "add it to the path: export PATH=\"$prefix/bin:\$PATH\"" ;;
esac
echo "start with: millstream demo"
