package wasm

import (
	"context"
	"encoding/binary"
	"fmt"
	"math/rand/v2"

	"github.com/tetratelabs/wazero"
	"github.com/tetratelabs/wazero/api"

	"blockengine/engine/pluginhost/wasm/meter"
)

// The functions of WASI preview 1 that the stock Go toolchain, wasi-libc and
// others link into every module. They are served so that such a module starts;
// what they tell is the same for every instance and every run, so that a
// plugin stays a pure function of its events.
const wasiModule = "wasi_snapshot_preview1"

// Error numbers of WASI preview 1.
const (
	wasiOK     = 0
	wasiBadf   = 8
	wasiFault  = 21
	wasiInval  = 28
	wasiNoSys  = 52
	maxIovecs  = 16
	maxLook    = 4 << 10  // bytes of one fd_write that are looked at
	maxRandom  = 64 << 10 // bytes of one random_get
	hostTicks  = 500      // a call out of the sandbox is worth as much
	clockStart = 1_000_000_000
	clockStep  = 1_000 // ns that pass from one look at the clock to the next
	maxPause   = 10_000_000
)

// hostFunc is one function that a module may import.
type hostFunc struct {
	name string
	typ  meter.FuncType
	call func(i *instance, mem api.Memory, stack []uint64)
}

func sig(results int, params ...meter.ValueType) meter.FuncType {
	t := meter.FuncType{Params: params}
	if results == 1 {
		t.Results = i32s[:1]
	}
	return t
}

const (
	i32 = meter.I32
	i64 = meter.I64
)

var hostFuncs = []hostFunc{
	{"sched_yield", sig(1), func(_ *instance, _ api.Memory, s []uint64) { s[0] = wasiOK }},
	{"proc_exit", sig(0, i32), func(_ *instance, _ api.Memory, s []uint64) { panic(exitError(uint32(s[0]))) }},
	{"args_sizes_get", sig(1, i32, i32), argsSizes},
	{"args_get", sig(1, i32, i32), func(_ *instance, _ api.Memory, s []uint64) { s[0] = wasiOK }},
	{"environ_sizes_get", sig(1, i32, i32), environSizes},
	{"environ_get", sig(1, i32, i32), environ},
	{"clock_time_get", sig(1, i32, i64, i32), clockTime},
	{"random_get", sig(1, i32, i32), random},
	{"fd_write", sig(1, i32, i32, i32, i32), fdWrite},
	{"poll_oneoff", sig(1, i32, i32, i32, i32), poll},
}

func hostFuncNamed(module, name string) *hostFunc {
	if module != wasiModule {
		return nil
	}
	for k := range hostFuncs {
		if hostFuncs[k].name == name {
			return &hostFuncs[k]
		}
	}
	return nil
}

// exitError is the panic with which proc_exit unwinds the guest.
type exitError uint32

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", uint32(e)) }

// provide instantiates the host module in a runtime.
func provide(ctx context.Context, rt wazero.Runtime) error {
	b := rt.NewHostModuleBuilder(wasiModule)
	for k := range hostFuncs {
		f := &hostFuncs[k]
		served := api.GoModuleFunc(func(ctx context.Context, mod api.Module, stack []uint64) {
			i := ctx.Value(instanceKey{}).(*instance)
			i.charge(hostTicks)
			f.call(i, mod.Memory(), stack)
		})
		b.NewFunctionBuilder().WithGoModuleFunction(served, valueTypes(f.typ.Params), valueTypes(f.typ.Results)).Export(f.name)
	}
	_, err := b.Instantiate(ctx)
	return err
}

func valueTypes(ts []meter.ValueType) []api.ValueType {
	v := make([]api.ValueType, len(ts))
	for k, t := range ts {
		v[k] = api.ValueType(t)
	}
	return v
}

// charge takes ticks off the budget of the call that is running, for work that
// the host does for it, and ends the call when it has no more.
func (i *instance) charge(ticks int64) {
	left := int64(i.budget.Get()) - ticks
	i.budget.Set(uint64(left))
	if left < 0 {
		panic(errBudget)
	}
}

// environment is what the guest finds in its environment: its collector does
// not run by itself (the engine asks for it in idle times) unless memory gets
// short.
func environment(memory uint64) []byte {
	return fmt.Appendf(nil, "GOGC=off\x00GOMEMLIMIT=%d\x00", memory/4*3)
}

const environVars = 2

func argsSizes(_ *instance, mem api.Memory, s []uint64) {
	s[0] = put(mem, uint32(s[0]), 0, uint32(s[1]), 0)
}

func environSizes(i *instance, mem api.Memory, s []uint64) {
	s[0] = put(mem, uint32(s[0]), environVars, uint32(s[1]), uint32(len(i.module.environ)))
}

// put writes two words.
func put(mem api.Memory, p, v, q, w uint32) uint64 {
	if !mem.WriteUint32Le(p, v) || !mem.WriteUint32Le(q, w) {
		return wasiFault
	}
	return wasiOK
}

func environ(i *instance, mem api.Memory, s []uint64) {
	pointers, text := uint32(s[0]), uint32(s[1])
	env := i.module.environ
	s[0] = wasiFault
	if !mem.Write(text, env) {
		return
	}
	start := 0
	for k, c := range env {
		if c != 0 {
			continue
		}
		if !mem.WriteUint32Le(pointers, text+uint32(start)) {
			return
		}
		pointers, start = pointers+4, k+1
	}
	s[0] = wasiOK
}

// clockTime gives a clock that moves when it is looked at. A plugin's time
// comes with its events; this one only has to satisfy a language's runtime,
// which wants a clock that is not zero and never stands still.
func clockTime(i *instance, mem api.Memory, s []uint64) {
	i.looks++
	if !mem.WriteUint64Le(uint32(s[2]), clockStart+i.looks*clockStep) {
		s[0] = wasiFault
		return
	}
	s[0] = wasiOK
}

// poll never waits: that would block the reactor. Go's runtime pauses for a
// few microseconds in places, for example before it prints a panic; so much
// time passes in no time. Whoever really wants to sleep is told that it cannot.
func poll(i *instance, mem api.Memory, s []uint64) {
	in, out, n, events := uint32(s[0]), uint32(s[1]), uint32(s[2]), uint32(s[3])
	s[0] = wasiNoSys
	sub, ok := mem.Read(in, 48)
	if !ok || n != 1 {
		return
	}
	const clock, absolute = 0, 1
	timeout := binary.LittleEndian.Uint64(sub[24:])
	if sub[8] != clock || sub[40]&absolute != 0 || timeout > maxPause {
		return
	}
	i.looks += timeout / clockStep
	var event [32]byte // of type clock, without error
	copy(event[:8], sub[:8])
	s[0] = wasiFault
	if mem.Write(out, event[:]) && mem.WriteUint32Le(events, 1) {
		s[0] = wasiOK
	}
}

// random gives every instance the same bytes: a runtime seeds its hash tables
// with them. What must be unguessable comes from the seed in Opened.
func random(i *instance, mem api.Memory, s []uint64) {
	n := uint32(s[1])
	if n > maxRandom {
		s[0] = wasiInval
		return
	}
	b, ok := mem.Read(uint32(s[0]), n)
	if !ok {
		s[0] = wasiFault
		return
	}
	i.charge(int64(n))
	if i.random == nil {
		i.random = rand.NewChaCha8([32]byte{'b', 'l', 'o', 'c', 'k'})
	}
	_, _ = i.random.Read(b) // it never fails
	s[0] = wasiOK
}

// fdWrite takes what a guest writes to its standard output and error for the
// log. All of it counts as written, the start of it is kept.
func fdWrite(i *instance, mem api.Memory, s []uint64) {
	fd, iovs, n, written := uint32(s[0]), uint32(s[1]), uint32(s[2]), uint32(s[3])
	switch {
	case fd != 1 && fd != 2:
		s[0] = wasiBadf
		return
	case n > maxIovecs:
		n = maxIovecs // a short write
	}
	total, look := uint64(0), maxLook
	for k := range n {
		iov, ok := mem.Read(iovs+8*k, 8)
		if !ok {
			s[0] = wasiFault
			return
		}
		b, ok := mem.Read(binary.LittleEndian.Uint32(iov), binary.LittleEndian.Uint32(iov[4:]))
		if !ok || total+uint64(len(b)) > 1<<31 {
			s[0] = wasiFault
			return
		}
		total += uint64(len(b))
		b = b[:min(len(b), look)]
		look -= len(b)
		i.charge(int64(len(b)))
		i.said.write(b, i.module.lines)
	}
	s[0] = wasiFault
	if mem.WriteUint32Le(written, uint32(total)) {
		s[0] = wasiOK
	}
}
