package vmtest

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"blockengine/internal/vmtest/wire"
)

// Run runs a command with a POSIX shell in the guest, as root, and gives its
// output (stdout and stderr as they came) and exit status (128 + the signal's
// number where a signal ended it). A command that has not ended when ctx does,
// or at the limit, fails the test.
func (vm *VM) Run(ctx context.Context, command string) (output string, status int) {
	vm.t.Helper()
	return vm.Start(command).Wait(ctx)
}

// MustRun runs a command that stops at its first failure (sh -e) and fails the
// test unless it ends with status 0. It gives the output.
func (vm *VM) MustRun(command string) string {
	vm.t.Helper()
	return vm.Start("set -e\n" + command).Must()
}

// Command is one that runs in the guest.
type Command struct {
	vm   *VM
	text string
	id   uint64
	call *call
}

// Start starts a command and does not wait for it. It ends with the VM at the
// latest.
func (vm *VM) Start(command string) *Command {
	vm.t.Helper()
	id, call, err := vm.agent.start(wire.Request{Op: wire.Run, Command: command})
	if err != nil {
		vm.fatal("cannot start %q: %v", command, err)
	}
	return &Command{vm, command, id, call}
}

// Wait waits for the end of the command, see [VM.Run].
func (c *Command) Wait(ctx context.Context) (output string, status int) {
	c.vm.t.Helper()
	ctx, cancel := c.vm.bound(ctx)
	defer cancel()
	if err := c.vm.agent.wait(ctx, c.call); err != nil {
		c.vm.fatal("no end of %q: %v\nit said: %s", c.text, err, c.Output())
	}
	return c.Output(), c.call.status
}

// Must waits and fails the test unless the command ends with status 0.
func (c *Command) Must() (output string) {
	c.vm.t.Helper()
	output, status := c.Wait(context.Background())
	if status != 0 {
		c.vm.t.Fatalf("vmtest: in the guest: %s\nended with status %d and said: %s", strings.TrimSpace(c.text), status, output)
	}
	return output
}

// Done is closed when the command has ended. It, Output and Signal may be used
// by any goroutine.
func (c *Command) Done() <-chan struct{} { return c.call.done }

// Output is what the command has written so far.
func (c *Command) Output() string { return c.call.text() }

// Signal sends a signal to the command and the processes that it started.
func (c *Command) Signal(s syscall.Signal) error {
	err := c.vm.agent.send(wire.Request{ID: c.id, Op: wire.Signal, Number: int(s)})
	if err != nil {
		return fmt.Errorf("signal %v for %q: %w", s, c.text, err)
	}
	return nil
}
