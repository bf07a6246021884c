# Completion of rulec in fish: `rulec complete` says what can follow.

function __rulec_complete
    set -l words (commandline -opc)
    set -l last (commandline -ct)
    set -l answer (command $words[1] complete -- $words[2..-1] $last 2>/dev/null)
    test (count $answer) -gt 0; or return
    # The answer is about the value.
    set -l option (string match -r -- '^--[^=]*=' $last)
    for line in $answer[2..-1]
        echo -- "$option$line"
    end
    set -l value (string replace -r -- '^--[^=]*=' '' $last)
    switch $answer[1]
        case files
            for path in (__fish_complete_path $value)
                echo -- "$option$path"
            end
        case directories
            for path in (__fish_complete_directories $value)
                echo -- "$option$path"
            end
    end
end

complete -c rulec -f -a '(__rulec_complete)'
