#!/bin/sh
# Runs a command in the foreground, so that its exit status is ours also after
# Ctrl-C. At a terminal the keyboard's signals go to all of the foreground
# process group; make, were it in there, would report an interrupt however
# cleanly the command ended. So the command gets a group of its own.
set -u

# In the background or without a terminal no keyboard reaches us, and to take
# the terminal would stop us.
read -r pid name state parent group session tty foreground rest </proc/$$/stat
if [ "$group" != "$foreground" ]; then
	exec "$@"
fi
set -m
# A command stopped with Ctrl-Z would be left behind, for there is no shell here
# to go on with it: it ignores that key.
(
	trap '' TSTP
	exec "$@"
) &
fg >/dev/null
