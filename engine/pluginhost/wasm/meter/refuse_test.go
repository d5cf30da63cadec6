package meter

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

// TestIndexSpaces: indices that would reach what the rewriter appends, or
// anything else that the module does not have, are refused.
func TestIndexSpaces(t *testing.T) {
	for name, body := range map[string][]byte{
		"read budget":        {opGlobalGet, 1, 0x1a},
		"refill budget":      {opI64Const, 127, opGlobalSet, 1},
		"reset depth":        {opI64Const, 127, opGlobalSet, 2},
		"padded index":       {opI64Const, 127, opGlobalSet, 0x81, 0x80, 0},
		"in dead code":       {opUnreachable, opGlobalSet, 1},
		"local":              {opLocalGet, 0, 0x1a},
		"function":           {opCall, 1},
		"function reference": {opRefFunc, 1, 0x1a},
		"type":               {opI32Const, 0, opCallIndirect, 1, 0},
		"table":              {opI32Const, 0, opCallIndirect, 0, 1},
		"block type":         {opBlock, 1, opEnd},
		"label":              {opBr, 1},
		"label of br_table":  {opI32Const, 0, opBrTable, 1, 0, 1},
		"data segment":       {0xfc, 9, 1},
		"element segment":    {0xfc, 13, 1},
		"table of table.get": {opI32Const, 0, 0x25, 1, 0x1a},
		"early end":          {opEnd, 0x01},
		"open block":         {opBlock, blockEmpty},
		"else without if":    {opBlock, blockEmpty, opElse, opEnd},
		"two elses":          {opI32Const, 0, opIf, blockEmpty, opElse, opElse, opEnd},
	} {
		refused(t, name, withBody(body...), ErrMalformed, "")
	}
	if _, err := Inspect(withBody(opI64Const, 1, opGlobalSet, 0, 0xfc, 9, 0, 0xfc, 13, 0), DefaultLimits()); err != nil {
		t.Errorf("the module's own global and segments are refused: %v", err)
	}
}

// TestUnsupported: each feature is refused by its name.
func TestUnsupported(t *testing.T) {
	for want, module := range map[string][]byte{
		"SIMD":         withBody(0xfd, 12),
		"threads":      withBody(0xfe, 3, 0),
		"tail call":    withBody(0x12, 0),
		"exception":    withBody(0x08, 0),
		"garbage":      withBody(0xfb, 0),
		"multi-memory": withBody(opI32Const, 0, 0x28, 0x42, 1, 0, 0x1a),
		"memory index": withBody(0x3f, 1, 0x1a),
		"v128":         build(section(secType, vector(fn([]ValueType{0x7b}, nil)))),
		"tag section":  build(section(secTag, vector())),
		"memory64":     build(section(secMemory, vector([]byte{4, 1}))),
		"shared":       build(section(secMemory, vector([]byte{3, 1, 2}))),
		"2 memories":   build(section(secMemory, vector([]byte{0, 1}, []byte{0, 1}))),
		"initial":      build(section(secTable, vector([]byte{0x40, 0, 0x70, 0, 1, 0xd0, 0x70, opEnd}))),
		"extended":     build(section(secGlobal, vector([]byte{byte(I32), 0, opI32Const, 1, opI32Const, 1, 0x6a, opEnd}))),
	} {
		refused(t, want, module, ErrUnsupported, want)
	}
	for kind, desc := range map[Kind][]byte{KindTable: {0x70, 0, 1}, KindMemory: {0, 1}, KindGlobal: {byte(I64), 1}} {
		im := append(append(appendName(appendName(nil, "env"), "x"), byte(kind)), desc...)
		refused(t, kind.String(), build(section(secImport, vector(im))), ErrUnsupported, fmt.Sprintf(`"env" "x" is a %v`, kind))
	}
}

// TestMalformed: the frame of the binary format.
func TestMalformed(t *testing.T) {
	types := section(secType, vector(fn(nil, nil)))
	fns := section(secFunction, vector([]byte{0}))
	global := []byte{byte(I64), 0, opI64Const, 0, opEnd}
	for name, module := range map[string][]byte{
		"empty":                {},
		"text":                 []byte("(module)"),
		"component":            []byte("\x00asm\x0d\x00\x01\x00"),
		"section cut short":    append([]byte(header), secType, 9, 1),
		"unknown section":      build(section(14, nil)),
		"order":                build(fns, types),
		"twice":                build(types, types),
		"data count late":      build(section(secCode, vector()), section(secDataCount, []byte{0})),
		"left over":            build(section(secType, append(vector(fn(nil, nil)), 0))),
		"count beyond bytes":   build(section(secType, []byte{100, 0x60})),
		"type index":           build(types, section(secFunction, vector([]byte{1}))),
		"no code":              build(types, fns),
		"code without funcs":   build(types, section(secCode, vector(code()))),
		"export twice":         build(section(secGlobal, vector(global)), section(secExport, vector(appendExport(nil, "a", KindGlobal, 0), appendExport(nil, "a", KindGlobal, 0)))),
		"export of budget":     build(section(secGlobal, vector(global)), section(secExport, vector(appendExport(nil, "a", KindGlobal, 1)))),
		"global from budget":   build(section(secGlobal, vector([]byte{byte(I64), 0, opGlobalGet, 0, opEnd}))),
		"export function":      build(types, section(secExport, vector(appendExport(nil, "a", KindFunc, 0)))),
		"export not UTF-8":     build(section(secGlobal, vector(global)), section(secExport, vector(appendExport(nil, "\xff", KindGlobal, 0)))),
		"start":                build(section(secStart, []byte{0})),
		"element function":     build(section(secTable, vector([]byte{0x70, 0, 1})), section(secElement, vector([]byte{1, 0, 1, 0}))),
		"element table":        build(section(secElement, vector([]byte{0, opI32Const, 0, opEnd, 0}))),
		"data without memory":  build(section(secData, vector([]byte{0, opI32Const, 0, opEnd, 0}))),
		"data count":           build(section(secDataCount, []byte{1})),
		"memory of 5 GiB":      build(section(secMemory, vector(appendU32([]byte{0}, 80000)))),
		"maximum below":        build(section(secMemory, vector([]byte{1, 2, 1}))),
		"custom without name":  build(section(secCustom, nil)),
		"start with parameter": build(section(secType, vector(fn([]ValueType{I32}, nil))), fns, section(secStart, []byte{0}), section(secCode, vector(code()))),
	} {
		refused(t, name, module, ErrMalformed, "")
	}
}

// TestReservedNames: nobody else exports or imports the meter's names.
func TestReservedNames(t *testing.T) {
	global := section(secGlobal, vector([]byte{byte(I64), 1, opI64Const, 0, opEnd}))
	for _, name := range []string{ExportBudget, ExportDepth, ExportStart, reservedPrefix} {
		refused(t, "export", build(global, section(secExport, vector(appendExport(nil, name, KindGlobal, 0)))), ErrReserved, name)
		im := append(appendName(appendName(nil, "env"), name), 0, 0)
		refused(t, "import", build(section(secType, vector(fn(nil, nil))), section(secImport, vector(im))), ErrReserved, name)
	}
}

// TestLimits: each limit, at it and one over it.
func TestLimits(t *testing.T) {
	long := make([]byte, 300)
	for i := range long {
		long[i] = 0x01 // nop
	}
	nested := []byte{opBlock, blockEmpty, opBlock, blockEmpty, opEnd, opEnd}
	locals := func(n uint32) []byte {
		return build(section(secType, vector(fn(nil, nil))), section(secFunction, vector([]byte{0})),
			section(secCode, vector(appendBytes(nil, append(appendU32([]byte{1}, n), byte(I32), opEnd)))))
	}
	cases := []struct {
		name   string
		set    func(*Limits, uint32)
		at     uint32
		module []byte
	}{
		{"module", func(l *Limits, n uint32) { l.MaxModuleBytes = n }, uint32(len(withBody())), withBody()},
		{"types", func(l *Limits, n uint32) { l.MaxTypes = n }, 1, withBody()},
		{"functions", func(l *Limits, n uint32) { l.MaxFunctions = n }, 1, withBody()},
		{"exports", func(l *Limits, n uint32) { l.MaxExports = n }, 3, withBody()},
		{"globals", func(l *Limits, n uint32) { l.MaxGlobals = n }, 1, withBody()},
		{"tables", func(l *Limits, n uint32) { l.MaxTables = n }, 1, withBody()},
		{"table entries", func(l *Limits, n uint32) { l.MaxTableEntries = n }, 4, withBody()},
		{"memory", func(l *Limits, n uint32) { l.MemoryPages = n }, 1, withBody()},
		{"element segments", func(l *Limits, n uint32) { l.MaxElemSegments = n }, 1, withBody()},
		{"element entries", func(l *Limits, n uint32) { l.MaxElemEntries = n }, 1, withBody()},
		{"data segments", func(l *Limits, n uint32) { l.MaxDataSegments = n }, 1, withBody()},
		{"body", func(l *Limits, n uint32) { l.MaxBodyBytes = n }, 302, withBody(long...)},
		{"nesting", func(l *Limits, n uint32) { l.MaxNesting = n }, 2, withBody(nested...)},
		{"br_table", func(l *Limits, n uint32) { l.MaxBrTable = n }, 3, withBody(opI32Const, 0, opBrTable, 3, 0, 0, 0, 0)},
		{"locals", func(l *Limits, n uint32) { l.MaxLocals = n }, 70_000, locals(70_000)},
		{"name", func(l *Limits, n uint32) { l.MaxNameBytes = n }, 5, build(custom("five!"))},
		{"custom", func(l *Limits, n uint32) { l.MaxCustom = n }, 2, build(custom("a"), custom("b"))},
		{"params", func(l *Limits, n uint32) { l.MaxParams = n }, 2, build(section(secType, vector(fn([]ValueType{I32, I32}, nil))))},
		{"results", func(l *Limits, n uint32) { l.MaxResults = n }, 2, build(section(secType, vector(fn(nil, []ValueType{I32, I32}))))},
	}
	for _, c := range cases {
		lim := DefaultLimits()
		lim.MaxFrameBytes = 1 << 30
		c.set(&lim, c.at)
		if _, err := Inspect(c.module, lim); err != nil {
			t.Errorf("%s: refused at its limit %d: %v", c.name, c.at, err)
		}
		c.set(&lim, c.at-1)
		if _, err := Inspect(c.module, lim); !errors.Is(err, ErrLimit) {
			t.Errorf("%s: error %v with the limit at %d, want ErrLimit", c.name, err, c.at-1)
		}
	}
	refused(t, "4 billion locals", locals(1<<32-1), ErrLimit, "locals")
	refused(t, "frame", deepModule(100, 120), ErrLimit, "stack frame")
}

// TestMemoryCapNamesBothSizes: the message tells what to change.
func TestMemoryCapNamesBothSizes(t *testing.T) {
	lim := DefaultLimits()
	lim.MemoryPages = 2
	_, err := Inspect(build(section(secMemory, vector([]byte{0, 5}))), lim)
	if err == nil || !strings.Contains(err.Error(), "320 KiB") || !strings.Contains(err.Error(), "128 KiB") {
		t.Errorf("error %v names no sizes", err)
	}
}

// refused checks that both entry points refuse a module alike.
func refused(t *testing.T, name string, module []byte, kind error, words string) {
	t.Helper()
	_, err := Inspect(module, DefaultLimits())
	_, _, err2 := Rewrite(module, DefaultLimits())
	if !errors.Is(err, kind) || !errors.Is(err2, kind) {
		t.Errorf("%s: errors %v and %v, want %v", name, err, err2, kind)
		return
	}
	if err != nil && !strings.Contains(err.Error(), words) {
		t.Errorf("%s: error %q does not say %q", name, err, words)
	}
}
