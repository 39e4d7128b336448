# What the first process of every tree of the lab does beside its own; sourced.

# Remembers which process this is and who started it, by the numbers and times of whoever started the
# lab; to be called before /proc is the tree's own.
remember() {
  local stat
  read -r -a stat </proc/self/stat
  first="{\"pid\": ${stat[0]}, \"start_time\": ${stat[21]}}"
  read -r -a stat <"/proc/${stat[3]}/stat"
  starter="{\"pid\": ${stat[0]}, \"start_time\": ${stat[21]}}"
}

# Tells that the tree is ready, in a directory, and reaps what is orphaned until it is killed.
serve() {
  printf '%s\n' "$starter" >"$1/starter.json"
  printf '%s\n' "$first" >"$1/first.new"
  mv "$1/first.new" "$1/first.json"
  while :; do sleep infinity & wait $!; done
}
