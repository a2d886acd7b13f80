# Completion of mxrtc-bridge for fish. Made by the program; do not edit.
function _mxrtc_bridge_completion
    set -l program (commandline -opc)[1]
    set -l line (commandline -cp | string collect)
    set -l answer (env _COMPLETE_LINE=$line _MXRTC_BRIDGE_COMPLETE=fish_complete $program 2>/dev/null)
    switch "$answer[1]"
        case file
            __fish_complete_path (commandline -ct)
        case dir
            __fish_complete_directories (commandline -ct)
        case words
            printf '%s\n' $answer[2..-1]
    end
end
complete --no-files --keep-order --command mxrtc-bridge --arguments '(_mxrtc_bridge_completion)'
