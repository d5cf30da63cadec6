package meter

import "encoding/binary"

// appendU32 appends an unsigned LEB128.
func appendU32(b []byte, v uint32) []byte { return binary.AppendUvarint(b, uint64(v)) }

// appendS64 appends a signed LEB128; it serves the 32 and 33 bit forms too.
func appendS64(b []byte, v int64) []byte {
	for {
		c := byte(v & 0x7f)
		v >>= 7
		if (v == 0 && c&0x40 == 0) || (v == -1 && c&0x40 != 0) {
			return append(b, c)
		}
		b = append(b, c|0x80)
	}
}

// appendBytes appends a length and the bytes.
func appendBytes(b, v []byte) []byte { return append(appendU32(b, uint32(len(v))), v...) }

func appendName(b []byte, s string) []byte { return append(appendU32(b, uint32(len(s))), s...) }

func appendType(b []byte, t *FuncType) []byte {
	b = append(b, 0x60)
	b = appendValueTypes(b, t.Params)
	return appendValueTypes(b, t.Results)
}

func appendValueTypes(b []byte, ts []ValueType) []byte {
	b = appendU32(b, uint32(len(ts)))
	for _, t := range ts {
		b = append(b, byte(t))
	}
	return b
}

func appendLimits(b []byte, low, high uint32) []byte {
	b = append(b, 1)
	return appendU32(appendU32(b, low), high)
}

// asm builds the few instructions that the rewriter inserts.
type asm struct{ b []byte }

func (a *asm) op(ops ...byte) { a.b = append(a.b, ops...) }

func (a *asm) indexed(op byte, i uint32) { a.b = appendU32(append(a.b, op), i) }

func (a *asm) i32(v int32) { a.b = appendS64(append(a.b, opI32Const), int64(v)) }

func (a *asm) i64(v int64) { a.b = appendS64(append(a.b, opI64Const), v) }

// Opcodes that only inserted code needs.
const (
	opI32GtU        = 0x4b
	opI64LtS        = 0x53
	opI32ShrU       = 0x76
	opI64Add        = 0x7c
	opI64Sub        = 0x7d
	opI64Or         = 0x84
	opI64Shl        = 0x86
	opI64ExtendI32U = 0xad
)

// trapIfNegative ends the instance when the i64 on the stack is below zero.
func (a *asm) trapIfNegative() {
	a.i64(0)
	a.op(opI64LtS, opIf, blockEmpty, opUnreachable, opEnd)
}

// subtract takes a constant off a global.
func (a *asm) subtract(global uint32, n int64) {
	a.indexed(opGlobalGet, global)
	a.i64(n)
	a.op(opI64Sub)
	a.indexed(opGlobalSet, global)
}

// charge takes ticks off the budget and traps when it is spent.
func (a *asm) charge(budget uint32, ticks int64) {
	a.subtract(budget, ticks)
	a.indexed(opGlobalGet, budget)
	a.trapIfNegative()
}
