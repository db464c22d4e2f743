# Sourced by the fetch scripts: Debian's i386 packages without root and without touching the system's own apt.
#
# Works on Debian and its derivatives: apt gets a private state directory in which nothing is installed and the only
# architecture is i386, so neither the system's package lists nor its dpkg database change.

say() { printf '%s\n' "fetch: $*" >&2; }
die() { say "$*"; exit 1; }

# apt_begin CACHE: keeps lists and packages below the directory CACHE.
apt_begin() {
    cache=$1
    mkdir -p "$cache/state/lists/partial" "$cache/archives/partial" "$cache/debs"
    : >"$cache/state/status"
    # A configuration file, because apt-get's list options can be cleared only there.
    cat >"$cache/apt.conf" <<CONF
#clear APT::Architectures;
APT::Architecture "i386";
APT::Architectures { "i386"; };
Dir::State "$cache/state";
Dir::State::status "$cache/state/status";
Dir::Cache "$cache";
Acquire::Languages "none";
Acquire::Retries "3";
APT::Sandbox::User "";
#clear DPkg::Pre-Install-Pkgs;
#clear DPkg::Post-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Acquire::IndexTargets::deb::Contents-deb::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons-small::DefaultEnabled "false";
Acquire::IndexTargets::deb::DEP-11-icons::DefaultEnabled "false";
CONF
    export APT_CONFIG="$cache/apt.conf"
}

# apt_closure PACKAGE...: what these need on a system that has nothing, as "name=version" lines.
apt_closure() {
    for try in 1 2 3 4 5; do
        say "reading package lists (attempt $try)"
        # Third-party sources without i386 may fail; what counts is that the closure resolves.
        apt-get update -qq >"$cache/update.log" 2>&1 || true
        closure=$(apt-get install --simulate --no-install-recommends -o APT::Get::AllowUnauthenticated=false "$@" \
            2>"$cache/simulate.log" | sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p')
        [ -n "$closure" ] && { printf '%s\n' "$closure"; return; }
        sleep $((try * 2))
    done
    cat "$cache/update.log" "$cache/simulate.log" >&2
    die "apt can't resolve the i386 packages; see above"
}

# apt_deb NAME=VERSION: the package's file, downloaded unless it is there.
apt_deb() {
    pattern=${1%%=*}_$(printf '%s' "${1#*=}" | sed 's/:/%3a/')_
    deb=$(ls "$cache/debs/$pattern"*.deb 2>/dev/null | head -n 1 || true)
    if [ -z "$deb" ]; then
        for try in 1 2 3 4; do
            (cd "$cache/debs" && apt-get download -qq "$1") >"$cache/download.log" 2>&1 && break
            [ "$try" = 4 ] && { cat "$cache/download.log" >&2; die "can't download $1"; }
            sleep $((try * 2))
        done
        deb=$(ls "$cache/debs/$pattern"*.deb | head -n 1)
    fi
    printf '%s\n' "$deb"
}

# apt_unpack DEB DIR [PATH...]: the package's files, or those named only, below DIR.
apt_unpack() {
    deb=$1 into=$2
    shift 2
    # --fsys-tarfile leaves merging with symlinked directories (/lib -> usr/lib) to tar.
    dpkg-deb --fsys-tarfile "$deb" | tar -x --keep-directory-symlink --no-same-owner -C "$into" "$@"
}
