#!/bin/sh
# Puts hosts.toml for each upstream of the mirror into a node's certs.d, and takes it off again.
#
#   node-setup.sh run        install, stay, put back what disappears; on SIGTERM take off what this instance put there
#   node-setup.sh install    put the files there once     node-setup.sh remove   take every file of this owner off
#   node-setup.sh check      succeed if every file is there, or somebody else's stands in its place
#
# Only files with the owner's mark are ever changed or removed. A second line names the instance (a pod): when an update
# starts a new pod before it ends the old one, the files are the new one's and the old one leaves them.
#
# CERTS_DIR   the node's certs.d, as it is mounted           OWNER      namespace/release
# REGISTRIES  a file with a registry in each line            INSTANCE   the pod
# MIRROR_URL  where nodes find the mirror; if empty, http://HOST_IP:NODE_PORT
# FALLBACK    false: containerd asks the mirror alone        CA_FILE    the authority of the mirror's certificate, if set
set -eu
umask 022 # whoever pulls may read it

: "${CERTS_DIR:?}" "${REGISTRIES:?}" "${OWNER:?}" "${INSTANCE:?}"
MARK="# Written by registry-mirror $OWNER; its node set-up changes and removes this file. Without this line it is yours."
NAME="# Instance $INSTANCE"
LF="
"
CA=registry-mirror-ca.pem # not .crt: without a hosts.toml containerd would take it for a registry's own

url() {
    if [ -n "${MIRROR_URL:-}" ]; then
        printf '%s' "$MIRROR_URL"
        return
    fi
    case "${HOST_IP:?}" in
    *:*) printf 'http://[%s]:%s' "$HOST_IP" "${NODE_PORT:?}" ;;
    *) printf 'http://%s:%s' "$HOST_IP" "${NODE_PORT:?}" ;;
    esac
}

# The directory that containerd looks into for a registry: host:port is host_port_ there.
directory() {
    case "$1" in
    *:*) printf '%s/%s_%s_' "$CERTS_DIR" "${1%:*}" "${1##*:}" ;;
    *) printf '%s/%s' "$CERTS_DIR" "$1" ;;
    esac
}

there() { [ -e "$1" ] || [ -L "$1" ]; } # a link may lead to where the node has something, and this pod nothing
ours() { [ -f "$1" ] && [ ! -L "$1" ] && [ "$(head -n 1 "$1")" = "$MARK" ]; }
of_this_instance() { ours "$1" && [ "$(sed -n 2p "$1")" = "$NAME" ]; }

# The form of containerd's docs/hosts.md; earlier containerd ignores a file with the capability `referrers`.
hosts_toml() { # registry
    printf '%s\n%s\n' "$MARK" "$NAME"
    if [ "${FALLBACK:-true}" = false ]; then
        # In the place of the registry as well as before it: containerd 1 ignores a file without a [host].
        printf 'server = "%s"\n' "$(url)"
        settings ""
    else
        case "$1" in
        _default | localhost:* | 127.0.0.1:*) ;; # containerd knows best where these are
        docker.io) printf 'server = "https://registry-1.docker.io"\n' ;;
        *) printf 'server = "https://%s"\n' "$1" ;;
        esac
    fi
    printf '\n[host."%s"]\n' "$(url)"
    settings "  "
}

settings() { # indentation
    printf '%scapabilities = ["pull", "resolve"]\n' "$1"
    if [ -n "${CA_FILE:-}" ]; then printf '%sca = "%s"\n' "$1" "$CA"; fi
}

# Whole or not at all: containerd may read at any moment.
update() { # file, content, and what may be replaced: all of ours, or own
    now="$(cat "$1" 2>/dev/null || :)"
    if [ "$2" = "$now" ]; then return 0; fi
    case "$3:$now" in
    all:* | own: | "own:$MARK$LF$NAME$LF"*) ;;
    *) return 0 ;; # another instance took it over at this moment
    esac
    mkdir -p "${1%/*}" &&
        printf '%s\n' "$2" >"$1.registry-mirror.tmp" &&
        chmod 0644 "$1.registry-mirror.tmp" &&
        mv -f "$1.registry-mirror.tmp" "$1" || return 1
    echo "wrote $1"
}

take_off() { # a directory
    rm -f "$1/hosts.toml" "$1"/*.registry-mirror.tmp
    if ours "$1/$CA"; then rm -f "$1/$CA"; fi
    rmdir "$1" 2>/dev/null || : # other files are in it
}

# Certificates that containerd reads only as long as there is no hosts.toml.
has_certificates() {
    for certificate in "$1"/*.crt "$1"/*.cert; do
        if [ -e "$certificate" ]; then return 0; fi
    done
    return 1
}

wanted() { # a directory
    while read -r registry || [ -n "$registry" ]; do
        if [ -n "$registry" ] && [ "$(directory "$registry")" = "$1" ]; then return 0; fi
    done <"$REGISTRIES"
    return 1
}

install() { # what may be taken over: all of ours, or own, which are those of this instance
    failed=false
    while read -r registry || [ -n "$registry" ]; do
        [ -n "$registry" ] || continue
        dir="$(directory "$registry")"
        file="$dir/hosts.toml"
        if there "$file"; then
            if ! ours "$file"; then
                leave "$registry" "$file was not written by registry-mirror $OWNER"
                continue
            fi
            if [ "$1" = own ] && ! of_this_instance "$file"; then continue; fi
        elif has_certificates "$dir"; then
            leave "$registry" "$dir holds certificates, which a hosts.toml would put out of use"
            continue
        elif [ -e "$dir/$CA" ] && ! ours "$dir/$CA"; then
            leave "$registry" "$dir/$CA was not written by registry-mirror $OWNER"
            continue
        fi
        if [ -n "${CA_FILE:-}" ]; then
            authority="$(cat "$CA_FILE")" && update "$dir/$CA" "$MARK$LF$NAME$LF$authority" "$1" || { failed=true && continue; }
        fi
        update "$file" "$(hosts_toml "$registry")" "$1" || { failed=true && continue; }
        if [ -z "${CA_FILE:-}" ] && ours "$dir/$CA"; then rm -f "$dir/$CA"; fi
    done <"$REGISTRIES"
    for file in "$CERTS_DIR"/*/hosts.toml; do
        dir="${file%/hosts.toml}"
        if wanted "$dir"; then continue; fi
        if of_this_instance "$file" || { [ "$1" = all ] && ours "$file"; }; then
            take_off "$dir"
            echo "removed $file"
        fi
    done
    [ "$failed" = false ]
}

remove() { # all of ours, or own
    for file in "$CERTS_DIR"/*/hosts.toml; do
        if of_this_instance "$file" || { [ "$1" = all ] && ours "$file"; }; then
            take_off "${file%/hosts.toml}"
            echo "removed $file"
        fi
    done
    # What a kill in the middle of the installation left.
    while read -r registry || [ -n "$registry" ]; do
        dir="$(directory "$registry")"
        if [ -n "$registry" ] && ! there "$dir/hosts.toml"; then take_off "$dir"; fi
    done <"$REGISTRIES"
}

check() {
    while read -r registry || [ -n "$registry" ]; do
        dir="$(directory "$registry")"
        if [ -n "$registry" ] && ! there "$dir/hosts.toml" && ! has_certificates "$dir"; then
            echo "missing: $dir/hosts.toml" >&2
            return 1
        fi
    done <"$REGISTRIES"
}

SAID=""
leave() { # registry, why; said once
    case "$SAID" in
    *"|$2|"*) ;;
    *)
        SAID="$SAID|$2|"
        echo "left alone: $2; $1 is not pulled through the mirror on this node until you move that away" >&2
        ;;
    esac
}

case "${1:-}" in
install) install all ;;
remove) remove all ;;
check) check ;;
run)
    scope=all
    nap=""
    trap '[ -z "$nap" ] || kill "$nap"; remove own; exit 0' TERM INT
    while :; do
        # What could not be written is tried again, and the check that makes the pod ready fails until then.
        if install "$scope" && [ "$scope" = all ]; then
            scope=own
            echo "done: containerd asks $(url) first"
        fi
        sleep "${INTERVAL:-60}" >/dev/null 2>&1 & # one that outlives this holds nothing open
        nap=$!
        wait "$nap" || :
        nap=""
    done
    ;;
*)
    sed -n '2,14s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
