# shellcheck shell=bash
# The table `packaging/files`, for those who pack and those who test. To be sourced.

# listed KIND: for each file and directory of the package of that KIND (deb, rpm): source (`-`: a directory), destination, mode.
# A pattern that nothing matches is an error.
listed() {
  local top source destination mode where path
  top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  while read -r source destination mode where; do
    [[ -n $source && $source != '#'* ]] || continue
    [[ $where == both || $where == "$1" ]] || continue
    if [[ $source == - ]]; then
      echo "- $destination $mode"
      continue
    fi
    source=${source/#made\//target/packages/made/}
    compgen -G "$top/$source" >/dev/null || { echo "packaging/files: there is no $source" >&2; return 1; }
    for path in "$top"/$source; do
      if [[ $destination == */ ]]; then echo "$path $destination${path##*/} $mode"; else echo "$path $destination $mode"; fi
    done
  done <"$top/packaging/files"
}
