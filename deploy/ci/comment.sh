#!/bin/sh
# Writes a comment for a pull request to the standard output, as Markdown: what changes in the kernel
# between a commit and the working tree, and what is wrong with the manifests.
#
#   comment.sh BASE PATH...
#
# BASE is a commit, and each PATH a directory or a file of manifests, relative to the current
# directory. RULEC is the program (rulec). RULEC_DIFF and RULEC_CHECK have more options for the two
# commands, such as `--cluster-cidr 10.244.0.0/16` and `--ignore not-read`.
#
# The exit status is 0 if nothing is wrong, 1 if `rulec check` has found something, and 2 if something
# could not be read, compared or run. A difference is nothing wrong.
set -u

# The most bytes of each output that are shown: a comment has room for 65,536 characters.
MOST=25000

[ $# -ge 2 ] || { echo "usage: $0 BASE PATH..." >&2; exit 2; }
base=$1
shift
rulec=${RULEC:-rulec}
directory=$(mktemp -d) || exit 2
trap 'rm -rf "$directory"' EXIT
trap 'exit 2' HUP INT TERM
fail() { echo "$0: $*" >&2; exit 2; }

git rev-parse --quiet --verify "$base^{commit}" >/dev/null || fail "$base is not a commit"
[ -z "$(git rev-parse --show-prefix)" ] || fail "start it in the root of the repository"

# shellcheck disable=SC2086 # RULEC_CHECK has several words
"$rulec" check ${RULEC_CHECK:-} -- "$@" >"$directory/check" 2>&1
check=$?

# The paths become the options --from and --to. Of a path that the commit does not have, there was
# nothing.
mkdir "$directory/base" "$directory/state" || exit 2
for path do
    then=$directory/base/$path
    if git cat-file -e "$base:${path%/}" 2>/dev/null; then
        git archive --format=tar "$base" -- "$path" >"$directory/base.tar" &&
            tar -xf "$directory/base.tar" -C "$directory/base" || fail "cannot unpack $path"
    elif [ -f "$path" ]; then
        mkdir -p "$(dirname "$then")" && echo '# nothing' >"$then" || exit 2
    else
        mkdir -p "$then" || exit 2
    fi
    shift
    set -- "$@" --from "$then" --to "$path"
done

# What rulec has given out on this machine has nothing to do with the manifests.
# shellcheck disable=SC2086 # RULEC_DIFF has several words
"$rulec" diff "$@" --state-dir "$directory/state" ${RULEC_DIFF:-} \
    >"$directory/diff.out" 2>"$directory/diff.err"
diff=$?
for output in out err; do
    sed "s|$directory/base/||g" "$directory/diff.$output" >"$directory/diff.$output.short"
done

# Prints a file as a block of code, from which no content can break out: every line is indented.
block() {
    echo
    awk -v most="$MOST" '
        { size += length($0) + 5 }
        size > most { print "    ... and more: run the command yourself"; exit }
        { print "    " $0 }
    ' "$1"
    echo
}
# Prints a difference below its first line, which is its summary. What is dangerous is not hidden.
folded() {
    summary=$(head -n 1 "$1")
    case $summary in
        *dangerous*) echo "<details open><summary>$summary</summary>" ;;
        *) echo "<details><summary>$summary</summary>" ;;
    esac
    block "$1"
    echo '</details>'
}

echo '<!-- rulec -->'
echo '### rulec'
echo
case $diff in
    0) echo 'Nothing changes in the kernel.' ;;
    1) folded "$directory/diff.out.short" ;;
    2)
        [ ! -s "$directory/diff.out.short" ] || folded "$directory/diff.out.short"
        echo
        echo 'Not everything could be compared:'
        block "$directory/diff.err.short"
        ;;
    *)
        echo 'The manifests could not be compared:'
        block "$directory/diff.err.short"
        ;;
esac
echo
case $check in
    0) tail -n 1 "$directory/check" ;;
    1) echo 'There is something to mend:'; block "$directory/check" ;;
    *) echo 'Not everything could be checked:'; block "$directory/check" ;;
esac

if [ "$diff" -gt 1 ] || [ "$check" -gt 1 ]; then exit 2; fi
exit "$check"
