package worker

import (
	"fmt"
	"os"
	"runtime/debug"

	"blockengine/sdk/process/ring"
	"blockengine/sdk/protocol"
)

// machineServer runs the state machine of a connection over a region's buffers,
// which the engine fills and empties in turns.
type machineServer struct {
	w       *Worker
	machine *protocol.Machine
	broken  bool // it has panicked
}

// Machine makes a state machine and serves the region from now on. The
// descriptors are the worker's, also if it fails.
func Machine(p protocol.Plugin, f Files, l ring.Layout, o Options) (*Worker, error) {
	if l.Kind != ring.KindMachine {
		f.close()
		return nil, fmt.Errorf("a region of kind %d came for a connection: %d", l.Kind, ring.KindMachine)
	}
	w, err := newWorker(f, l, o)
	if err != nil {
		return nil, err
	}
	go w.run(&machineServer{w: w, machine: protocol.NewMachine(p.NewConn(), w.region.In, w.region.Out, nil)})
	return w, nil
}

// serve handles a call. The engine makes one at a time.
func (m *machineServer) serve(tail uint32) {
	r := m.w.region
	m.w.taken = tail
	r.SubHead.Store(tail)
	r.CallOut.Store(m.call(r.CallIn.Load()))
	r.CompTail.Swap(tail) // see ring: not Store
	m.w.wakeEngine()
}

// call calls the plugin. One that panics ends its own connection, as it would in
// the other runtimes.
func (m *machineServer) call(n uint32) (out uint32) {
	if m.broken {
		return ring.Panicked
	}
	defer func() {
		if p := recover(); p != nil {
			m.broken = true
			out = ring.Panicked
			fmt.Fprintf(os.Stderr, "panic in the state machine of a connection: %v\n%s", p, debug.Stack())
		}
	}()
	return m.machine.Call(n)
}

func (m *machineServer) finish() {}
