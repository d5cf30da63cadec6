package meter

import "strings"

func (m *module) typeSection(r *reader) {
	n := r.count("types", m.lim.MaxTypes, 3)
	m.types = make([]FuncType, 0, n)
	for i := 0; i < n && r.ok(); i++ {
		switch form := r.u8("type form"); form {
		case 0x60:
			var t FuncType
			t.Params = r.valueTypes("parameters", m.lim.MaxParams)
			t.Results = r.valueTypes("results", m.lim.MaxResults)
			m.types = append(m.types, t)
		case 0x4e, 0x4f, 0x50, 0x5e, 0x5f:
			r.fail(ErrUnsupported, "type form %#x of the garbage collection proposal", form)
		default:
			r.malformed("type form %#x, expected 0x60 (function)", form)
		}
	}
}

func (r *reader) valueTypes(what string, limit uint32) []ValueType {
	n := r.count(what, limit, 1)
	if n == 0 {
		return nil
	}
	ts := make([]ValueType, n)
	for i := range ts {
		ts[i] = r.valueType()
	}
	return ts
}

func (m *module) importSection(r *reader) {
	n := r.count("imports", m.lim.MaxImports, 4)
	for i := 0; i < n && r.ok(); i++ {
		im := Import{
			Module: r.name("import module name", m.lim.MaxNameBytes),
			Name:   r.name("import name", m.lim.MaxNameBytes),
			Kind:   Kind(r.u8("import kind")),
		}
		switch {
		case !r.ok():
			return
		case im.Kind == 4:
			r.fail(ErrUnsupported, "import %q %q is an exception tag", im.Module, im.Name)
		case im.Kind > KindGlobal:
			r.malformed("import kind %#x", byte(im.Kind))
		case im.Kind != KindFunc:
			r.fail(ErrUnsupported, "import %q %q is a %v: a plugin defines its own and imports functions only", im.Module, im.Name, im.Kind)
		case strings.HasPrefix(im.Name, reservedPrefix) || strings.HasPrefix(im.Module, reservedPrefix):
			r.fail(ErrReserved, "import %q %q: names that start with %q belong to the engine", im.Module, im.Name, reservedPrefix)
		}
		t := r.index("type", len(m.types))
		if !r.ok() {
			return
		}
		im.Type = m.types[t]
		m.imports = append(m.imports, im)
		m.funcTypes = append(m.funcTypes, t)
		m.imported++
	}
}

func (m *module) functionSection(r *reader) {
	limit := m.lim.MaxFunctions - min(uint32(m.imported), m.lim.MaxFunctions)
	n := r.count("functions", limit, 1)
	for i := 0; i < n && r.ok(); i++ {
		m.funcTypes = append(m.funcTypes, r.index("type", len(m.types)))
	}
}

// limits reads the size of a table or memory.
func (r *reader) limits(what string) limitsType {
	var l limitsType
	switch flag := r.u8(what + " limits"); {
	case flag == 1:
		l.hasMax = true
	case flag == 2 || flag == 3:
		r.fail(ErrUnsupported, "shared %s (threads): compile without -matomics and -pthread", what)
	case flag >= 4 && flag <= 7:
		r.fail(ErrUnsupported, "64-bit %s (memory64): compile for wasm32", what)
	case flag != 0:
		r.malformed("%s limits flag %#x", what, flag)
	}
	l.min = r.u32(what + " minimum")
	if l.hasMax {
		l.max = r.u32(what + " maximum")
		if r.ok() && l.max < l.min {
			r.malformed("%s maximum %d is below its minimum %d", what, l.max, l.min)
		}
	}
	return l
}

func (m *module) tableSection(r *reader) {
	n := r.count("tables", m.lim.MaxTables, 3)
	for i := 0; i < n && r.ok(); i++ {
		if !r.done() && r.buf[r.pos] == 0x40 {
			r.fail(ErrUnsupported, "table with an initial value (function references proposal)")
			return
		}
		t := tableType{elem: r.refType()}
		t.limitsType = r.limits("table")
		if r.ok() && t.min > m.lim.MaxTableEntries {
			r.fail(ErrLimit, "table %d wants %d entries, the cap is %d", i, t.min, m.lim.MaxTableEntries)
		}
		m.tables = append(m.tables, t)
	}
}

func (m *module) memorySection(r *reader) {
	n := r.count("memories", 1<<16, 2)
	if r.ok() && n > 1 {
		r.fail(ErrUnsupported, "%d memories (multi-memory): a plugin has one", n)
	}
	if n == 0 || !r.ok() {
		return
	}
	l := r.limits("memory")
	if r.ok() && (l.min > 1<<16 || l.max > 1<<16) {
		r.malformed("memory of more than 65536 pages (4 GiB)")
	}
	if r.ok() && l.min > m.lim.MemoryPages {
		r.fail(ErrLimit, "memory starts at %d pages (%d KiB), the cap is %d pages (%d KiB): raise the plugin's memory or build it with less",
			l.min, uint64(l.min)*64, m.lim.MemoryPages, uint64(m.lim.MemoryPages)*64)
	}
	m.memories = append(m.memories, l)
}

func (m *module) globalSection(r *reader) {
	n := r.count("globals", m.lim.MaxGlobals, 4)
	for i := 0; i < n && r.ok(); i++ {
		g := globalType{typ: r.valueType()}
		switch mut := r.u8("global mutability"); {
		case mut == 1:
			g.mutable = true
			m.mutable++
		case mut != 0:
			r.malformed("global mutability %#x", mut)
		}
		m.constExpr(r, i)
		m.globals = append(m.globals, g)
	}
}

func (m *module) exportSection(r *reader) {
	n := r.count("exports", m.lim.MaxExports, 3)
	seen := make(map[string]bool, n)
	for i := 0; i < n && r.ok(); i++ {
		e := Export{Name: r.name("export name", m.lim.MaxNameBytes), Kind: Kind(r.u8("export kind"))}
		if seen[e.Name] {
			r.malformed("two exports are named %q", e.Name)
		}
		seen[e.Name] = true
		if strings.HasPrefix(e.Name, reservedPrefix) {
			r.fail(ErrReserved, "export %q: names that start with %q belong to the engine", e.Name, reservedPrefix)
		}
		m.exportIndex(r, &e)
		if r.ok() {
			m.exports = append(m.exports, e)
		}
	}
}

func (m *module) exportIndex(r *reader, e *Export) {
	switch e.Kind {
	case KindFunc:
		e.Index = r.index("function", len(m.funcTypes))
		if r.ok() {
			e.Type = *m.funcType(e.Index)
		}
	case KindTable:
		e.Index = r.index("table", len(m.tables))
	case KindMemory:
		e.Index = r.index("memory", len(m.memories))
	case KindGlobal:
		e.Index = r.index("global", len(m.globals))
	default:
		r.malformed("export kind %#x", byte(e.Kind))
	}
}

func (m *module) startSection(r *reader) {
	f := r.index("function", len(m.funcTypes))
	if !r.ok() {
		return
	}
	if t := m.funcType(f); len(t.Params)+len(t.Results) != 0 {
		r.malformed("start function %d takes or returns values", f)
		return
	}
	m.start = int(f)
}

func (m *module) codeSection(r *reader) {
	own := len(m.funcTypes) - m.imported
	n := r.count("function bodies", m.lim.MaxFunctions, 2)
	if r.ok() && n != own {
		r.malformed("%d functions are declared and %d have code", own, n)
		return
	}
	m.bodies = make([]body, 0, n)
	sc := newScanner(m)
	for i := 0; i < n && r.ok(); i++ {
		size := r.u32("function body size")
		if r.ok() && size > m.lim.MaxBodyBytes {
			r.fail(ErrLimit, "function %d has %d bytes of code, the limit is %d", m.imported+i, size, m.lim.MaxBodyBytes)
		}
		s := r.sub(size, "function body")
		b := sc.summarize(&s, uint32(m.imported+i))
		if s.err != nil {
			s.err.Detail = m.inFunction(m.imported+i, s.err.Detail)
		}
		r.finish(&s, "a function body")
		m.bodies = append(m.bodies, b)
	}
}
