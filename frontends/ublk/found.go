package ublk

import "context"

// Found is a ublk device of this host, or the memory of one.
type Found struct {
	ID          int    // -1: only remembered; the kernel has no such device
	Path        string // /dev/ublkbN, "" where ID is -1
	State       string // the kernel's: dead, live, quiesced, fail_io; gone where ID is -1
	Server      int    // process that serves it, 0: none
	Name        string // the export's that it is remembered for; "" for another program's device
	Volume      string // its name
	Identity    string // what the volume said of itself
	Size        uint64 // bytes
	Queues      int
	Depth       int
	Recoverable bool // an engine with that export goes on serving it
}

// List gives the devices that the kernel has, whoever made them, and those that
// are remembered in the state directory and are not there.
func List(ctx context.Context, stateDir string) ([]Found, error) { return nil, errNotYet }

// Delete stops and removes a device, whoever made it, and forgets it. What uses
// it gets errors.
func Delete(ctx context.Context, stateDir string, id int) error { return errNotYet }

// Forget removes the memory of a device that the kernel does not have any more.
func Forget(stateDir, name string) error { return errNotYet }
