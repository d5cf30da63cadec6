# Functions of the guest's shell that run the engine there. Read by ". engine.sh".

# running: there is an engine, and it has not ended.
running() { [ -e /run/e.pid ] && kill -0 "$(cat /run/e.pid)" 2>/dev/null; }

# engine_begin [VAR=VALUE]...: starts an engine and does not wait for it.
engine_begin() {
	: >/run/e.out
	echo "--- start $*" >>/run/e.log
	setsid env "$@" engine run -c /run/engine.toml >/run/e.out 2>>/run/e.log </dev/null &
	echo $! >/run/e.pid
}

# engine_start: starts an engine and waits until it is ready.
engine_start() {
	engine_begin "$@"
	i=0
	until grep -q ^ready /run/e.out; do
		i=$((i + 1))
		running && [ $i -lt 1200 ] || { echo "the engine does not come up"; cat /run/e.out; tail -n 20 /run/e.log; return 1; }
		sleep 0.05
	done
}

# engine_gone: waits until the engine has ended.
engine_gone() {
	i=0
	while running; do
		i=$((i + 1))
		[ $i -lt 1200 ] || { echo "the engine does not end"; tail -n 20 /run/e.log; return 1; }
		sleep 0.05
	done
}

engine_kill() { kill -9 "$(cat /run/e.pid)" && engine_gone; }
engine_stop() { kill -TERM "$(cat /run/e.pid)" && engine_gone; }

# await SECONDS COMMAND...: until the command succeeds.
await() {
	until_=$(($(date +%s) + $1))
	shift
	until "$@"; do
		[ "$(date +%s)" -lt "$until_" ] || { echo "in vain: $*"; return 1; }
		sleep 0.05
	done
}

# size_is DEVICE BYTES
size_is() { [ "$(blockdev --getsize64 "/dev/$1")" = "$2" ]; }
