# Sourced first by every script of this folder: with --help or -h, its comment at the top is printed and nothing else happens.
for argument in "$@"; do
    case "$argument" in
        --help | -h)
            sed -n '2,/^[^#]/ { /^[^#]/d; /^# shellcheck/d; /^#SBATCH/d; s/^# \{0,1\}//; s/^#$//; p }' "$0"
            exit
            ;;
    esac
done
unset argument
