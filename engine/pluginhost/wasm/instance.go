package wasm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"unsafe"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"
	"github.com/tetratelabs/wazero/experimental"

	"blockengine/engine/pluginhost/guest"
	"blockengine/engine/pluginhost/wasm/meter"
	"blockengine/sdk/abi"
)

// instance is one instance of a module: the state machine of one connection.
type instance struct {
	module *Module
	ctx    context.Context // leads host functions back to the instance
	mem    *reservation
	mod    api.Module
	call   api.Function
	budget api.MutableGlobal // ticks left
	depth  api.Global        // depth left
	stack  [2]uint64         // parameters and result of be_call
	in     []byte            // view of the guest's memory
	out    []byte            // view of the guest's memory
	failed error             // once it is set, the instance is only good for Close

	said   utterance
	looks  uint64 // at the clock
	random *rand.ChaCha8
}

var (
	errClosed = errors.New("the plugin instance is closed")
	errBudget = errors.New("budget spent in a host function")
)

// instanceKey finds the instance in the context of a call.
type instanceKey struct{}

// callContext is the context of all calls into an instance. wazero looks for
// its own keys in it on every call, so it is as flat as can be.
type callContext struct {
	context.Context
	i *instance
}

// Value implements context.Context.
func (c *callContext) Value(key any) any {
	if key == (instanceKey{}) {
		return c.i
	}
	return nil
}

// newInstance makes an instance whose language runtime is initialised; the
// buffers are still to come.
func (m *Module) newInstance(ctx context.Context) (*instance, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := m.acquire(); err != nil {
		return nil, err
	}
	mem, err := reserve(m.memory)
	if err != nil {
		m.release()
		return nil, err
	}
	i := &instance{module: m, mem: mem}
	i.ctx = &callContext{context.Background(), i}
	if err = i.start(ctx); err != nil {
		i.Close()
		return nil, err
	}
	return i, nil
}

// start instantiates and initialises. Each step is bounded by its budget.
func (i *instance) start(ctx context.Context) error {
	err := guard(func() (err error) {
		i.mod, err = i.module.rt.InstantiateModule(experimental.WithMemoryAllocator(i.ctx, i.mem), i.module.code,
			wazero.NewModuleConfig().WithName("").WithStartFunctions())
		return err
	})
	if err != nil {
		return fmt.Errorf("instantiate: %w", err)
	}
	i.budget = i.mod.ExportedGlobal(meter.ExportBudget).(api.MutableGlobal)
	i.depth = i.mod.ExportedGlobal(meter.ExportDepth)
	for _, name := range []string{meter.ExportStart, abi.ExportInit} {
		if err := ctx.Err(); err != nil {
			return err
		}
		if i.mod.ExportedFunction(name) == nil {
			continue
		}
		if _, err := i.run(name, i.module.budget); err != nil {
			return err
		}
	}
	return nil
}

// speaks asks for the version of the interface and checks it.
func (i *instance) speaks() (version uint32, err error) {
	v, err := i.run(abi.ExportABI, guest.BudgetLogin)
	if err != nil {
		return 0, err
	}
	return uint32(v), checkABI(uint32(v))
}

// run calls an exported function off the data path.
func (i *instance) run(name string, budget int64, args ...uint64) (uint64, error) {
	stack := make([]uint64, 1+max(len(args), 1))
	stack[0] = uint64(budget)
	copy(stack[1:], args)
	i.said.start = i.said.start[:0]
	if err := i.mod.ExportedFunction(name).CallWithStack(i.ctx, stack); err != nil {
		return 0, fmt.Errorf("%s: %w", name, i.trap(err))
	}
	return stack[0], nil
}

// manifestText copies the text that be_manifest points to.
func (i *instance) manifestText() ([]byte, error) {
	r, err := i.run(abi.ExportManifest, guest.BudgetLogin)
	if err != nil {
		return nil, err
	}
	p, n := uint32(r>>32), uint32(r)
	if n == 0 || n > maxManifest {
		return nil, fmt.Errorf("%s gives a manifest of %d bytes: 1 to %d", abi.ExportManifest, n, maxManifest)
	}
	b, ok := i.mod.Memory().Read(p, n)
	if !ok {
		return nil, fmt.Errorf("%s gives a manifest at %#x of %d bytes, outside of its memory of %d bytes", abi.ExportManifest, p, n, i.mod.Memory().Size())
	}
	return append([]byte(nil), b...), nil
}

// connect asks for the buffers and lays views over them.
func (i *instance) connect() error {
	p, err := i.run(abi.ExportBuffers, guest.BudgetLogin, abi.InSize, abi.OutSize)
	if err != nil {
		return err
	}
	mem := i.mod.Memory()
	b, ok := mem.Read(uint32(p), uint32(unsafe.Sizeof(abi.Buffers{})))
	if !ok || p&3 != 0 {
		return fmt.Errorf("%s points to %#x, which is no multiple of 4 inside its memory of %d bytes", abi.ExportBuffers, uint32(p), mem.Size())
	}
	at := *abi.Overlay[abi.Buffers](b) // the guest may change its own later
	if i.in, err = view(mem, "In", at.In, at.InSize, abi.InSize); err != nil {
		return err
	}
	if i.out, err = view(mem, "Out", at.Out, at.OutSize, abi.OutSize); err != nil {
		return err
	}
	if uint64(at.In) < uint64(at.Out)+uint64(at.OutSize) && uint64(at.Out) < uint64(at.In)+uint64(at.InSize) {
		return fmt.Errorf("%s gives buffers that overlap: In is %d bytes at %#x, Out %d bytes at %#x", abi.ExportBuffers, at.InSize, at.In, at.OutSize, at.Out)
	}
	i.call = i.mod.ExportedFunction(abi.ExportCall)
	return nil
}

// view checks one buffer. Memory never moves, so the view holds for life.
func view(mem api.Memory, name string, p, n, least uint32) ([]byte, error) {
	switch b, ok := mem.Read(p, n); {
	case p == 0 || p&7 != 0:
		return nil, fmt.Errorf("%s gives %s at %#x: it must start at a multiple of 8 that is not 0", abi.ExportBuffers, name, p)
	case n < least || n&7 != 0:
		return nil, fmt.Errorf("%s gives %s of %d bytes: a multiple of 8, at least the %d asked for", abi.ExportBuffers, name, n, least)
	case !ok:
		return nil, fmt.Errorf("%s gives %s at %#x of %d bytes, outside of its memory of %d bytes", abi.ExportBuffers, name, p, n, mem.Size())
	default:
		return b, nil
	}
}

// Input implements guest.Instance.
func (i *instance) Input() []byte { return i.in }

// Call implements guest.Instance. It allocates nothing unless it fails.
func (i *instance) Call(n int, budget int64) (actions []byte, more bool, err error) {
	if i.failed != nil {
		return nil, false, i.failed
	}
	if uint(n) > uint(len(i.in)) {
		return nil, false, fmt.Errorf("%d bytes of events do not fit the input buffer of %d", n, len(i.in))
	}
	i.said.start = i.said.start[:0]
	i.stack[0], i.stack[1] = uint64(budget), uint64(uint32(n))
	if err := i.call.CallWithStack(i.ctx, i.stack[:]); err != nil {
		i.failed = i.trap(err)
		return nil, false, i.failed
	}
	r := uint32(i.stack[0])
	size := int(r &^ abi.CallMore)
	if size > len(i.out) || size&7 != 0 {
		i.failed = i.badOutput(size)
		return nil, false, i.failed
	}
	return i.out[:size:size], r&abi.CallMore != 0, nil
}

func (i *instance) badOutput(size int) error {
	return &guest.Trap{Cause: "output", Err: fmt.Errorf("%s returned %d bytes of actions: a multiple of 8, at most the output buffer's %d", abi.ExportCall, size, len(i.out))}
}

// Close implements guest.Instance.
func (i *instance) Close() {
	if i.failed == errClosed {
		return
	}
	i.failed = errClosed
	if i.mod != nil {
		i.said.flush(i.module.lines)
		_ = i.mod.Close(i.ctx) // nothing of the guest's can fail to close
	}
	i.mem.Free() // an instantiation that failed half-way leaves it to us
	i.in, i.out, i.call = nil, nil, nil
	i.module.release()
}
