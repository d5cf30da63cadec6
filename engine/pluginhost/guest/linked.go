package guest

import (
	"fmt"

	"blockengine/sdk/abi"
	"blockengine/sdk/protocol"
)

// linkedInstance runs the same machine as a WebAssembly guest, over buffers of
// its own. A plugin that panics ends its instance, as a trap would.
type linkedInstance struct {
	machine *protocol.Machine
	in, out []byte
}

func (i *linkedInstance) Input() []byte { return i.in }

func (i *linkedInstance) Call(n int, _ int64) (actions []byte, more bool, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &Trap{Cause: "unreachable", Err: fmt.Errorf("panic: %v", p)}
		}
	}()
	r := i.machine.Call(uint32(n))
	return i.out[:r&^abi.CallMore], r&abi.CallMore != 0, nil
}

func (i *linkedInstance) Close() {}
