package sdktest

import (
	"fmt"

	"blockengine/sdk/abi"
	"blockengine/sdk/protocol"
)

// Instance is the state machine of one connection, in any runtime. Instances
// of the engine have the same methods.
type Instance interface {
	// Input is the buffer for event records, at least abi.InSize bytes,
	// aligned to 8.
	Input() []byte
	// Call hands in the first n bytes of Input with a budget in ticks and
	// gives the actions, valid until the next call. more asks for a call with
	// n = 0. After an error the instance is only good for Close.
	Call(n int, budget int64) (actions []byte, more bool, err error)
	// Close releases the instance.
	Close()
}

// Linked opens instances of a plugin that is linked into the test.
func Linked(p protocol.Plugin) func(TB) Instance {
	return func(TB) Instance { return NewLinked(p) }
}

// NewLinked makes one instance of a plugin that is linked into the test.
func NewLinked(p protocol.Plugin) Instance {
	i := &linked{in: abi.Buffer(abi.InSize), out: abi.Buffer(abi.OutSize)}
	i.machine = protocol.NewMachine(p.NewConn(), i.in, i.out, nil)
	return i
}

type linked struct {
	machine *protocol.Machine
	in, out []byte
}

func (i *linked) Input() []byte { return i.in }
func (i *linked) Close()        {}

func (i *linked) Call(n int, _ int64) (actions []byte, more bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	r := i.machine.Call(uint32(n))
	return i.out[:r&^abi.CallMore], r&abi.CallMore != 0, nil
}
