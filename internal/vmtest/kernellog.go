package vmtest

import (
	"context"
	"regexp"
	"strconv"
	"strings"

	"blockengine/internal/vmtest/wire"
)

// Record is one of the guest's kernel log.
type Record struct {
	Level int    // as in syslog: 3 is an error, lower is worse
	Text  string // without the time
}

// Kmsg gives the guest's kernel log so far.
func (vm *VM) Kmsg() []Record {
	vm.t.Helper()
	ctx, cancel := vm.bound(context.Background())
	defer cancel()
	_, call, err := vm.agent.start(wire.Request{Op: wire.Kmsg})
	if err == nil {
		err = vm.agent.wait(ctx, call)
	}
	if err != nil {
		vm.fatal("no kernel log: %v", err)
	}
	return records(call.text())
}

// records reads the format of /dev/kmsg (Documentation/ABI/testing/dev-kmsg):
// "facility and level,number,time,flags[,more];text", then lines of properties
// that begin with a space.
func records(log string) []Record {
	var all []Record
	for line := range strings.Lines(log) {
		head, text, ok := strings.Cut(strings.TrimSuffix(line, "\n"), ";")
		if !ok || strings.HasPrefix(line, " ") {
			continue
		}
		number, _, _ := strings.Cut(head, ",")
		prio, err := strconv.Atoi(number)
		if err != nil {
			continue
		}
		all = append(all, Record{prio & 7, text})
	}
	return all
}

// trouble is what no healthy guest with healthy disks logs, at whatever level.
var trouble = regexp.MustCompile(`(?i)I/O error|critical \w+ error|blocked for more than|` +
	`^(EXT4|XFS|JBD2)\b.*(error|warning|corrupt|shut ?down|shutting down)|` +
	`remounting filesystem read-only|^(BUG|WARNING|Oops|INFO: (task|rcu))\b|Call Trace|lost async page write|` +
	`virtio_blk .*(fail|error|reset)|Out of memory|\boom-kill`)

// errorLevel is KERN_ERR.
const errorLevel = 3

// Troubles are the records that speak of errors: those of level error and worse,
// and those that tell of failed or hanging I/O at any level.
func Troubles(log []Record) []Record {
	var bad []Record
	for _, r := range log {
		if r.Level <= errorLevel || trouble.MatchString(r.Text) {
			bad = append(bad, r)
		}
	}
	return bad
}

// CheckKernelLog fails the test for each trouble in the guest's kernel log.
func (vm *VM) CheckKernelLog() {
	vm.t.Helper()
	for _, r := range Troubles(vm.Kmsg()) {
		vm.t.Errorf("vmtest: the guest's kernel says, at level %d: %s", r.Level, r.Text)
	}
}
