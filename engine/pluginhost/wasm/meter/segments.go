package meter

import "fmt"

// constExpr checks a constant expression. It may name globals below defined
// only: a module has no imported globals, so nothing else can be constant.
func (m *module) constExpr(r *reader, defined int) {
	for r.ok() {
		switch op := r.u8("constant expression"); op {
		case 0x0b:
			return
		case 0x41:
			r.signed(32, "i32.const")
		case 0x42:
			r.signed(64, "i64.const")
		case 0x43:
			r.bytes(4, "f32.const")
		case 0x44:
			r.bytes(8, "f64.const")
		case 0x23:
			r.index("global", defined)
		case 0xd0:
			r.refType()
		case 0xd2:
			r.index("function", len(m.funcTypes))
		case 0x6a, 0x6b, 0x6c, 0x7c, 0x7d, 0x7e:
			r.fail(ErrUnsupported, "arithmetic in a constant expression (extended-const)")
		case 0xfd:
			r.fail(ErrUnsupported, "vector constant (SIMD): compile without -msimd128")
		default:
			r.malformed("opcode %#x in a constant expression", op)
		}
	}
}

func (m *module) elementSection(r *reader) {
	n := r.count("element segments", m.lim.MaxElemSegments, 3)
	entries := uint32(0)
	for i := 0; i < n && r.ok(); i++ {
		entries += m.elementSegment(r, m.lim.MaxElemEntries-entries)
	}
}

// elementSegment parses one of the eight forms (5.5.12): bit 0 passive or
// declarative, bit 1 explicit table or declarative, bit 2 expressions.
func (m *module) elementSegment(r *reader, limit uint32) uint32 {
	flags := r.u32("element segment flags")
	if flags > 7 {
		r.malformed("element segment flags %#x", flags)
		return 0
	}
	active, explicit, exprs := flags&1 == 0, flags&2 != 0, flags&4 != 0
	if active {
		if explicit {
			r.index("table", len(m.tables))
		} else if len(m.tables) == 0 {
			r.malformed("element segment for table 0, the module has no table")
		}
		m.constExpr(r, len(m.globals))
	}
	typ := FuncRef
	if flags&3 != 0 {
		if exprs {
			typ = r.refType()
		} else if kind := r.u8("element kind"); kind != 0 {
			r.malformed("element kind %#x, expected 0 (funcref)", kind)
		}
	}
	n := r.count("element entries", limit, 1)
	for i := 0; i < n && r.ok(); i++ {
		if exprs {
			m.constExpr(r, len(m.globals))
		} else {
			r.index("function", len(m.funcTypes))
		}
	}
	m.elemTypes = append(m.elemTypes, typ)
	return uint32(n)
}

func (m *module) dataSection(r *reader) {
	n := r.count("data segments", m.lim.MaxDataSegments, 2)
	for i := 0; i < n && r.ok(); i++ {
		flags := r.u32("data segment flags")
		switch flags {
		case 0, 2:
			if flags == 2 {
				r.index("memory", len(m.memories))
			} else if len(m.memories) == 0 {
				r.malformed("data segment for memory 0, the module has no memory")
			}
			m.constExpr(r, len(m.globals))
		case 1:
		default:
			r.malformed("data segment flags %#x", flags)
		}
		r.bytes(r.u32("data segment size"), "data segment")
		m.datas++
	}
}

// inFunction adds to the detail of an error in which function it lies.
func (m *module) inFunction(index int, detail string) string {
	for i := range m.exports {
		if e := &m.exports[i]; e.Kind == KindFunc && int(e.Index) == index {
			return fmt.Sprintf("function %d (%q): %s", index, e.Name, detail)
		}
	}
	return fmt.Sprintf("function %d: %s", index, detail)
}
