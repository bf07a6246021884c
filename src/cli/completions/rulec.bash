# Completion of rulec in bash: `rulec complete` says what can follow.

_rulec() {
    local line=${COMP_LINE:0:COMP_POINT} kind candidate path value
    local -a words answer
    # Not COMP_WORDS: bash breaks these at `=` and `:`, too. Backslashes are what was typed for spaces.
    # shellcheck disable=SC2162
    read -a words <<<"$line"
    case $line in *[[:space:]]) words+=('') ;; esac
    value=${words[${#words[@]} - 1]}
    mapfile -t answer < <("${1/#\~\//$HOME/}" complete -- "${words[@]:1}" 2>/dev/null)
    kind=${answer[0]-words}
    COMPREPLY=()
    # What bash breaks off stays, so that it is no part of the reply.
    local kept=
    case $value in
    --*=*)
        value=${value#*=}
        ;;
    esac
    case $COMP_WORDBREAKS in
    *:*) case $value in *:*) kept=${value%"${value##*:}"} ;; esac ;;
    esac
    for candidate in "${answer[@]:1}"; do
        candidate=${candidate%%$'\t'*}
        COMPREPLY+=("${candidate#"$kept"}")
    done
    case $kind in
    files | directories)
        compopt -o filenames 2>/dev/null
        local action=-f
        [ "$kind" = files ] || action=-d
        while IFS= read -r path; do
            COMPREPLY+=("${path#"$kept"}")
        done < <(compgen "$action" -- "$value")
        ;;
    esac
}

complete -F _rulec rulec
