package meter

import "slices"

// Inspect decodes and checks a module against lim without rewriting it. The
// module is not kept. Errors are of type *Error.
func Inspect(module []byte, lim Limits) (*Info, error) {
	m, err := decode(module, lim)
	if err != nil {
		return nil, err
	}
	return m.info(), nil
}

// Rewrite gives a module that behaves like the one it is given, but counts
// down a budget and traps when that is spent, or when calls nest too deep; its
// memory and tables cannot grow beyond lim. The functions exported under the
// names in wrap take an i64 more, the budget, before their own parameters;
// names that the module does not export as functions are passed over (Info
// tells which there are). Errors are of type *Error.
//
// The result is not validated for types: that is the runtime's job when it
// compiles it. What keeps the meter out of the module's reach (every index,
// label and name) is checked here, against the module as it came.
func Rewrite(module []byte, lim Limits, wrap ...string) (out []byte, info *Info, err error) {
	m, err := decode(module, lim)
	if err != nil {
		return nil, nil, err
	}
	rw := &rewriter{m: m, budget: uint32(len(m.globals)), depth: uint32(len(m.globals)) + 1}
	return rw.module(wrap), m.info(), nil
}

// rewriter builds the new module. All that it adds goes to the end of an index
// space, so the indices of the original stay.
type rewriter struct {
	m             *module
	budget, depth uint32 // global indices

	types     []FuncType        // added
	typeAt    map[string]uint32 // encoded type to its index, original and added
	funcTypes []uint32          // types of the added functions
	code      []byte            // bodies of the added functions, sizes included
	helpers   [helperCount]uint32
}

// typeIndex finds a type, or adds it.
func (rw *rewriter) typeIndex(t *FuncType) uint32 {
	if rw.typeAt == nil {
		rw.typeAt = make(map[string]uint32, len(rw.m.types))
		for i := range rw.m.types {
			rw.typeAt[string(appendType(nil, &rw.m.types[i]))] = uint32(i)
		}
	}
	key := string(appendType(nil, t))
	i, ok := rw.typeAt[key]
	if !ok {
		i = uint32(len(rw.m.types) + len(rw.types))
		rw.types = append(rw.types, *t)
		rw.typeAt[key] = i
	}
	return i
}

// addFunc appends a function and gives its index.
func (rw *rewriter) addFunc(t *FuncType, body []byte) uint32 {
	i := uint32(len(rw.m.funcTypes) + len(rw.funcTypes))
	rw.funcTypes = append(rw.funcTypes, rw.typeIndex(t))
	rw.code = appendBytes(rw.code, body)
	return i
}

// module puts the sections together. Code and exports come first, because
// they decide which types and functions are added.
func (rw *rewriter) module(wrap []string) []byte {
	m := rw.m
	exports := rw.exports(wrap)
	code := rw.codeSection()
	out := make([]byte, 0, len(m.bytes)+len(m.bytes)/2+1024)
	out = append(out, header...)
	out = rw.vector(out, secType, len(m.types), len(rw.types), rw.addedTypes())
	out = rw.copied(out, secImport)
	out = rw.vector(out, secFunction, len(m.bodies), len(rw.funcTypes), rw.addedFuncs())
	out = rw.tables(out)
	out = rw.memory(out)
	out = rw.vector(out, secGlobal, len(m.globals), 2, rw.addedGlobals())
	out = appendSection(out, secExport, exports)
	out = rw.copied(out, secElement)
	out = rw.copied(out, secDataCount)
	out = appendSection(out, secCode, code)
	out = rw.copied(out, secData)
	return rw.customs(out)
}

func appendSection(out []byte, id byte, contents []byte) []byte {
	return appendBytes(append(out, id), contents)
}

// contents gives a section of the original, nil when there is none.
func (rw *rewriter) contents(id byte) []byte {
	for i := range rw.m.sections {
		if s := &rw.m.sections[i]; s.id == id {
			return rw.m.bytes[s.body.start:s.body.end]
		}
	}
	return nil
}

func (rw *rewriter) copied(out []byte, id byte) []byte {
	if c := rw.contents(id); c != nil {
		return appendSection(out, id, c)
	}
	return out
}

// vector writes a section that is the original's entries and some more.
func (rw *rewriter) vector(out []byte, id byte, n, more int, added []byte) []byte {
	if n+more == 0 {
		return rw.copied(out, id)
	}
	old := rw.contents(id)
	if old != nil { // past the count, which ends at the first byte without bit 7
		old = old[slices.IndexFunc(old, func(b byte) bool { return b < 0x80 })+1:]
	}
	c := appendU32(make([]byte, 0, len(old)+len(added)+5), uint32(n+more))
	return appendSection(out, id, append(append(c, old...), added...))
}

func (rw *rewriter) addedTypes() []byte {
	var b []byte
	for i := range rw.types {
		b = appendType(b, &rw.types[i])
	}
	return b
}

func (rw *rewriter) addedFuncs() []byte {
	var b []byte
	for _, t := range rw.funcTypes {
		b = appendU32(b, t)
	}
	return b
}

// addedGlobals: a mutable i64 budget, empty until the host fills it, and a
// mutable i64 depth.
func (rw *rewriter) addedGlobals() []byte {
	var a asm
	a.op(byte(I64), 1)
	a.i64(0)
	a.op(opEnd, byte(I64), 1)
	a.i64(int64(rw.m.lim.MaxCallDepth))
	a.op(opEnd)
	return a.b
}

// tables caps every table.
func (rw *rewriter) tables(out []byte) []byte {
	if len(rw.m.tables) == 0 {
		return out
	}
	c := appendU32(nil, uint32(len(rw.m.tables)))
	for _, t := range rw.m.tables {
		high := rw.m.lim.MaxTableEntries
		if t.hasMax {
			high = min(high, t.max)
		}
		c = appendLimits(append(c, byte(t.elem)), t.min, high)
	}
	return appendSection(out, secTable, c)
}

// memory caps linear memory.
func (rw *rewriter) memory(out []byte) []byte {
	if len(rw.m.memories) == 0 {
		return out
	}
	c := appendLimits([]byte{1}, rw.m.memories[0].min, rw.m.memoryMax())
	return appendSection(out, secMemory, c)
}

func (m *module) memoryMax() uint32 {
	if l := m.memories[0]; l.hasMax {
		return min(l.max, m.lim.MemoryPages)
	}
	return m.lim.MemoryPages
}

// exports writes the export section, with wrappers for the names in wrap.
func (rw *rewriter) exports(wrap []string) []byte {
	m := rw.m
	n := len(m.exports) + 2
	if m.start >= 0 {
		n++
	}
	c := appendU32(nil, uint32(n))
	for i := range m.exports {
		e := &m.exports[i]
		index := e.Index
		if e.Kind == KindFunc && slices.Contains(wrap, e.Name) {
			index = rw.wrapper(e.Index, &e.Type)
		}
		c = appendExport(c, e.Name, e.Kind, index)
	}
	c = appendExport(c, ExportBudget, KindGlobal, rw.budget)
	c = appendExport(c, ExportDepth, KindGlobal, rw.depth)
	if m.start >= 0 {
		c = appendExport(c, ExportStart, KindFunc, rw.wrapper(uint32(m.start), &FuncType{}))
	}
	return c
}

func appendExport(c []byte, name string, k Kind, index uint32) []byte {
	return appendU32(append(appendName(c, name), byte(k)), index)
}

// codeSection writes all function bodies.
func (rw *rewriter) codeSection() []byte {
	m := rw.m
	e := &emitter{rw: rw, dec: decoder{m: m}}
	code := make([]byte, 0, len(rw.contents(secCode))*3/2)
	for i := range m.bodies {
		code = e.body(code, i)
	}
	count := appendU32(nil, uint32(len(m.bodies)+len(rw.funcTypes)))
	return slices.Concat(count, code, rw.code)
}

// customs appends the custom sections that stay.
func (rw *rewriter) customs(out []byte) []byte {
	named := false
	for i := range rw.m.sections {
		s := &rw.m.sections[i]
		switch {
		case s.id != secCustom:
		case keepCustom(s.name):
			out = appendSection(out, secCustom, rw.m.bytes[s.body.start:s.body.end])
		case s.name == "name" && !named:
			if names := rw.m.functionNames(s.body); names != nil {
				out = appendSection(out, secCustom, names)
				named = true
			}
		}
	}
	return out
}

// info gathers what the host wants to know.
func (m *module) info() *Info {
	i := &Info{Imports: m.imports, Exports: m.exports, Functions: len(m.bodies),
		HasStart: m.start >= 0, HasMemory: len(m.memories) > 0, CustomSections: m.custom}
	if i.HasMemory {
		i.MemoryMin, i.MemoryMax = m.memories[0].min, m.memoryMax()
	}
	for k := range m.bodies {
		i.StackBytes = max(i.StackBytes, m.bodies[k].frame)
	}
	return i
}
