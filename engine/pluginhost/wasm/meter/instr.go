package meter

// Opcodes that the scanner or the emitter treats specially.
const (
	opUnreachable  = 0x00
	opBlock        = 0x02
	opLoop         = 0x03
	opIf           = 0x04
	opElse         = 0x05
	opEnd          = 0x0b
	opBr           = 0x0c
	opBrIf         = 0x0d
	opBrTable      = 0x0e
	opReturn       = 0x0f
	opCall         = 0x10
	opCallIndirect = 0x11
	opLocalGet     = 0x20
	opGlobalGet    = 0x23
	opGlobalSet    = 0x24
	opMemoryGrow   = 0x40
	opI32Const     = 0x41
	opI64Const     = 0x42
	opRefFunc      = 0xd2
	prefixBulk     = 0xfc

	// Opcodes behind prefixBulk.
	opMemoryInit = prefixBulk<<8 | 8
	opMemoryCopy = prefixBulk<<8 | 10
	opMemoryFill = prefixBulk<<8 | 11
	opTableInit  = prefixBulk<<8 | 12
	opTableCopy  = prefixBulk<<8 | 14
	opTableGrow  = prefixBulk<<8 | 15
	opTableFill  = prefixBulk<<8 | 17
)

const blockEmpty = 0x40

// instr is one decoded instruction.
type instr struct {
	op    uint32 // prefixBulk<<8 | sub-opcode for the bulk operations
	index uint32 // label, function or type, by opcode
	// block type: parameters and results
	params, results int
}

// decoder reads instructions and checks their immediates against the index
// spaces of the module as it came.
type decoder struct {
	m       *module
	locals  int      // parameters and locals of the function
	targets []uint32 // labels of the last br_table, the default last
}

// next reads one instruction.
func (d *decoder) next(r *reader) instr {
	op := r.u8("instruction")
	in := instr{op: uint32(op)}
	switch {
	case op == opBlock || op == opLoop || op == opIf:
		d.blockType(r, &in)
	case op <= 0x01 || op == opElse || op == opEnd || op == opReturn || op == 0x1a || op == 0x1b || op == 0xd1:
	case op >= 0x45 && op <= 0xc4: // comparison, arithmetic, conversion, sign extension
	case op >= 0x28 && op <= 0x3e:
		d.memArg(r)
	case op >= 0x20 && op <= 0x22:
		r.index("local", d.locals)
	case op == opGlobalGet || op == opGlobalSet:
		r.index("global", len(d.m.globals))
	case op == 0x25 || op == 0x26:
		r.index("table", len(d.m.tables))
	case op == opBr || op == opBrIf:
		in.index = r.u32("label")
	case op == opBrTable:
		d.brTable(r)
	case op == opCall || op == opRefFunc:
		in.index = r.index("function", len(d.m.funcTypes))
	case op == opCallIndirect:
		in.index = r.index("type", len(d.m.types))
		r.index("table", len(d.m.tables))
	case op == prefixBulk:
		in.op = d.bulk(r)
	default:
		d.constantOrRare(r, op)
	}
	return in
}

func (d *decoder) constantOrRare(r *reader, op byte) {
	switch op {
	case opI32Const:
		r.signed(32, "i32.const")
	case opI64Const:
		r.signed(64, "i64.const")
	case 0x43:
		r.bytes(4, "f32.const")
	case 0x44:
		r.bytes(8, "f64.const")
	case 0x3f, opMemoryGrow:
		d.memory(r)
	case 0x1c:
		if n := r.u32("select types"); r.ok() && n != 1 {
			r.malformed("select with %d types", n)
		}
		r.valueType()
	case 0xd0:
		r.refType()
	default:
		refuseOpcode(r, op)
	}
}

// refuseOpcode names the proposal that an opcode belongs to.
func refuseOpcode(r *reader, op byte) {
	if !r.ok() {
		return
	}
	switch {
	case op == 0xfd:
		r.fail(ErrUnsupported, "vector instruction (SIMD): compile without -msimd128")
	case op == 0xfe:
		r.fail(ErrUnsupported, "atomic instruction (threads): compile without -matomics and -pthread")
	case op == 0x12 || op == 0x13:
		r.fail(ErrUnsupported, "tail call: compile without -mtail-call")
	case op == 0x06 || op == 0x07 || op == 0x08 || op == 0x09 || op == 0x0a || op == 0x18 || op == 0x19 || op == 0x1f:
		r.fail(ErrUnsupported, "exception instruction %#x: compile without exception handling", op)
	case op == 0x14 || op == 0x15 || op >= 0xd3 && op <= 0xd6 || op == 0xfb:
		r.fail(ErrUnsupported, "instruction %#x of the garbage collection or function references proposal", op)
	default:
		r.malformed("unknown opcode %#x", op)
	}
}

// blockType reads 0x40, a value type, or a type index as a positive s33.
func (d *decoder) blockType(r *reader, in *instr) {
	if r.done() {
		r.u8("block type")
		return
	}
	switch b := r.buf[r.pos]; {
	case b == blockEmpty:
		r.pos++
	case b&0xc0 == 0x40:
		r.valueType()
		in.results = 1
	default:
		i := r.signed(33, "block type")
		if r.ok() && (i < 0 || i >= int64(len(d.m.types))) {
			r.malformed("block type index %d, the module has %d types", i, len(d.m.types))
		}
		if r.ok() {
			t := &d.m.types[i]
			in.params, in.results = len(t.Params), len(t.Results)
		}
	}
}

func (d *decoder) memArg(r *reader) {
	align := r.u32("memory alignment")
	if r.ok() && align&0x40 != 0 && align < 0x80 {
		r.fail(ErrUnsupported, "memory index in a memory access (multi-memory)")
	}
	if r.ok() && align > 3 {
		r.malformed("memory alignment 2^%d", align)
	}
	r.u32("memory offset")
	if r.ok() && len(d.m.memories) == 0 {
		r.malformed("memory access in a module without memory")
	}
}

// memory reads the memory index of an instruction, one zero byte.
func (d *decoder) memory(r *reader) {
	i := r.u8("memory index")
	if r.ok() && i != 0 {
		r.fail(ErrUnsupported, "memory index %d (multi-memory)", i)
	}
	if r.ok() && len(d.m.memories) == 0 {
		r.malformed("memory instruction in a module without memory")
	}
}

func (d *decoder) brTable(r *reader) {
	n := r.count("br_table targets", d.m.lim.MaxBrTable, 1)
	d.targets = d.targets[:0]
	for i := 0; i <= n && r.ok(); i++ {
		d.targets = append(d.targets, r.u32("label"))
	}
}

// bulk reads an instruction behind prefixBulk and gives its opcode.
func (d *decoder) bulk(r *reader) uint32 {
	sub := r.u32("opcode")
	switch sub {
	case 0, 1, 2, 3, 4, 5, 6, 7: // saturating truncation
	case 8:
		d.dataIndex(r)
		d.memory(r)
	case 9:
		d.dataIndex(r)
	case 10:
		d.memory(r)
		d.memory(r)
	case 11:
		d.memory(r)
	case 12:
		r.index("element segment", len(d.m.elemTypes))
		r.index("table", len(d.m.tables))
	case 13:
		r.index("element segment", len(d.m.elemTypes))
	case 14:
		r.index("table", len(d.m.tables))
		r.index("table", len(d.m.tables))
	case 15, 16, 17:
		r.index("table", len(d.m.tables))
	default:
		r.malformed("unknown opcode 0xfc %d", sub)
		return 0
	}
	return prefixBulk<<8 | sub
}

func (d *decoder) dataIndex(r *reader) {
	if r.ok() && d.m.dataCount < 0 {
		r.malformed("instruction names a data segment, but there is no data count section")
	}
	r.index("data segment", d.m.dataCount)
}
