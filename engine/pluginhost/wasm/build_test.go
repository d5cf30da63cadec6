package wasm

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"blockengine/sdk/abi"
)

// A small assembler for plugins that no toolchain would make. Its modules have
// one page of memory for words and three for buffers:
//
//	16      the Buffers struct
//	1024    the manifest
//	65536   the input buffer
//	131072  the output buffer
const (
	buffersAt  = 16
	manifestAt = 1024
	inAt       = 65536
	outAt      = 131072
)

// Opcodes.
const (
	opUnreachable = 0x00
	opLoop        = 0x03
	opEnd         = 0x0b
	opBr          = 0x0c
	opBrIf        = 0x0d
	opCall        = 0x10
	opDrop        = 0x1a
	opLocalGet    = 0x20
	opGlobalGet   = 0x23
	opGlobalSet   = 0x24
	opI32Load     = 0x28
	opI32Store    = 0x36
	opMemoryGrow  = 0x40
	opI32Const    = 0x41
	opI64Const    = 0x42
	opPrefix      = 0xfc
	empty         = 0x40
	tI32          = 0x7f
	tI64          = 0x7e
)

// module describes a plugin to build. The zero value is one that works: it
// answers each call with no actions.
type module struct {
	imports  []imp
	abi      uint32
	manifest string
	buffers  *abi.Buffers
	call     []byte // body of be_call, parameter 0 is in_len; the final end is added
	start    []byte // body of a start function
	init     []byte // body of _initialize
	without  string // export to leave out
	noMemory bool   // leave out the memory's export
	retype   string // function to give the type ()→()
	memory   uint32 // pages, 4 by default
}

type imp struct {
	module, name    string
	params, results []byte
}

func uleb(v uint32) []byte { return binary.AppendUvarint(nil, uint64(v)) }

func sleb(v int64) []byte {
	var b []byte
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if v == 0 && c&0x40 == 0 || v == -1 && c&0x40 != 0 {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

func vec(items ...[]byte) []byte {
	b := uleb(uint32(len(items)))
	for _, i := range items {
		b = append(b, i...)
	}
	return b
}

func sized(b []byte) []byte { return append(uleb(uint32(len(b))), b...) }

func sec(id byte, contents []byte) []byte { return append([]byte{id}, sized(contents)...) }

func ops(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case int:
			b = append(b, byte(p))
		case []byte:
			b = append(b, p...)
		default:
			panic(fmt.Sprintf("%T", p))
		}
	}
	return b
}

func constI32(v int64) []byte { return append([]byte{opI32Const}, sleb(v)...) }
func constI64(v int64) []byte { return append([]byte{opI64Const}, sleb(v)...) }

func typ(params, results []byte) []byte {
	return ops(0x60, sized(params), sized(results))
}

// function of a module under construction.
type function struct {
	name            string
	params, results []byte
	body            []byte
}

const goodManifest = `{"kind":"protocol","name":"hand-made","version":"1","abi":"1.0","payload":"direct","options":[]}`

// bytes builds the module.
func (m module) bytes() []byte {
	if m.abi == 0 {
		m.abi = abi.Version
	}
	if m.manifest == "" {
		m.manifest = goodManifest
	}
	if m.buffers == nil {
		m.buffers = &abi.Buffers{In: inAt, InSize: abi.InSize, Out: outAt, OutSize: abi.OutSize}
	}
	if m.call == nil {
		m.call = constI32(0)
	}
	if m.memory == 0 {
		m.memory = 4
	}
	i := []byte{tI32}
	funcs := []function{
		{abi.ExportABI, nil, i, constI32(int64(int32(m.abi)))},
		{abi.ExportManifest, nil, []byte{tI64}, constI64(manifestAt<<32 | int64(len(m.manifest)))},
		{abi.ExportBuffers, []byte{tI32, tI32}, i, constI32(buffersAt)},
		{abi.ExportCall, i, i, m.call},
	}
	if m.init != nil {
		funcs = append(funcs, function{name: abi.ExportInit, body: m.init})
	}
	if m.start != nil {
		funcs = append(funcs, function{body: m.start})
	}
	return m.assemble(funcs)
}

func (m *module) assemble(funcs []function) []byte {
	var types, imports, decls, exports, codes [][]byte
	for _, im := range m.imports {
		imports = append(imports, ops(sized([]byte(im.module)), sized([]byte(im.name)), 0, uleb(uint32(len(types)))))
		types = append(types, typ(im.params, im.results))
	}
	if !m.noMemory {
		exports = append(exports, ops(sized([]byte("memory")), 2, 0))
	}
	exports = append(exports, ops(sized([]byte("own")), 3, 0))
	for k, f := range funcs {
		if f.name == m.retype && f.name != "" {
			f.params, f.results, f.body = nil, nil, nil
		}
		decls = append(decls, uleb(uint32(len(types))))
		types = append(types, typ(f.params, f.results))
		codes = append(codes, sized(ops(0, f.body, opEnd)))
		if f.name != "" && f.name != m.without {
			exports = append(exports, ops(sized([]byte(f.name)), 0, uleb(uint32(len(m.imports)+k))))
		}
	}
	out := []byte("\x00asm\x01\x00\x00\x00")
	out = append(out, sec(1, vec(types...))...)
	out = append(out, sec(2, vec(imports...))...)
	out = append(out, sec(3, vec(decls...))...)
	out = append(out, sec(5, vec(ops(0, uleb(m.memory))))...)
	out = append(out, sec(6, vec(ops(tI64, 1, constI64(7), opEnd)))...)
	out = append(out, sec(7, vec(exports...))...)
	if m.start != nil {
		out = append(out, sec(8, uleb(uint32(len(m.imports)+len(funcs)-1)))...)
	}
	out = append(out, sec(10, vec(codes...))...)
	b := binary.LittleEndian.AppendUint32(nil, m.buffers.In)
	b = binary.LittleEndian.AppendUint32(b, m.buffers.InSize)
	b = binary.LittleEndian.AppendUint32(b, m.buffers.Out)
	b = binary.LittleEndian.AppendUint32(b, m.buffers.OutSize)
	data := func(at int64, b []byte) []byte { return ops(0, constI32(at), opEnd, sized(b)) }
	return append(out, sec(11, vec(data(buffersAt, b), data(manifestAt, []byte(m.manifest))))...)
}

// file writes the module to a file.
func (m module) file(tb testing.TB) string { return writeModule(tb, m.bytes()) }

func writeModule(tb testing.TB, b []byte) string {
	tb.Helper()
	path := filepath.Join(tb.TempDir(), "x.wasm")
	if err := os.WriteFile(path, b, 0o600); err != nil {
		tb.Fatal(err)
	}
	return path
}
