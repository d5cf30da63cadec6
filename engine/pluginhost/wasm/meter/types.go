package meter

import "fmt"

// ValueType is a WebAssembly value type in its binary encoding.
type ValueType byte

// The value types that plugins may use.
const (
	I32       ValueType = 0x7f
	I64       ValueType = 0x7e
	F32       ValueType = 0x7d
	F64       ValueType = 0x7c
	FuncRef   ValueType = 0x70
	ExternRef ValueType = 0x6f
)

// String gives the name in the text format.
func (t ValueType) String() string {
	switch t {
	case I32:
		return "i32"
	case I64:
		return "i64"
	case F32:
		return "f32"
	case F64:
		return "f64"
	case FuncRef:
		return "funcref"
	case ExternRef:
		return "externref"
	}
	return fmt.Sprintf("type(%#x)", byte(t))
}

// FuncType is the signature of a function.
type FuncType struct {
	Params, Results []ValueType
}

// Kind says what an import or export is.
type Kind byte

// The kinds, in their binary encoding.
const (
	KindFunc   Kind = 0
	KindTable  Kind = 1
	KindMemory Kind = 2
	KindGlobal Kind = 3
)

// String gives the name in the text format.
func (k Kind) String() string {
	switch k {
	case KindFunc:
		return "func"
	case KindTable:
		return "table"
	case KindMemory:
		return "memory"
	case KindGlobal:
		return "global"
	}
	return fmt.Sprintf("kind(%#x)", byte(k))
}

// Import is one import. Only functions are accepted, so Kind is KindFunc.
type Import struct {
	Module, Name string
	Kind         Kind
	Type         FuncType
}

// Export is one export of the module as it came, before rewriting.
type Export struct {
	Name  string
	Kind  Kind
	Index uint32   // in the index space of its kind
	Type  FuncType // KindFunc only
}

// CustomSection is a copy of a custom section.
type CustomSection struct {
	Name string
	Data []byte
}

// Info is what a module declares. It shares no memory with the module.
type Info struct {
	Imports   []Import
	Exports   []Export
	Functions int  // own functions, imports not counted
	HasStart  bool // a start section; Rewrite turns it into ExportStart

	HasMemory bool
	// MemoryMin and MemoryMax are in pages of 64 KiB. MemoryMax is the smaller
	// of the module's own maximum and Limits.MemoryPages: what the rewritten
	// module declares.
	MemoryMin, MemoryMax uint32

	// CustomSections holds the custom sections whose names start with
	// CustomPrefix, in the module's order; there may be several of one name.
	CustomSections []CustomSection

	// StackBytes is the largest estimated stack frame of one function.
	StackBytes uint32
}

// Export finds an export by name, nil when there is none.
func (i *Info) Export(name string) *Export {
	for k := range i.Exports {
		if i.Exports[k].Name == name {
			return &i.Exports[k]
		}
	}
	return nil
}

// valueType reads a value type that plugins may use.
func (r *reader) valueType() ValueType {
	t := r.u8("value type")
	switch ValueType(t) {
	case I32, I64, F32, F64, FuncRef, ExternRef:
		return ValueType(t)
	}
	r.badValueType(t)
	return 0
}

// refType reads funcref or externref.
func (r *reader) refType() ValueType {
	t := r.valueType()
	if r.ok() && t != FuncRef && t != ExternRef {
		r.malformed("reference type expected, found %v", t)
	}
	return t
}

func (r *reader) badValueType(t byte) {
	switch {
	case !r.ok():
	case t == 0x7b:
		r.fail(ErrUnsupported, "vector type v128 (SIMD): compile without -msimd128")
	case t == 0x69:
		r.fail(ErrUnsupported, "exception reference type: compile without exception handling")
	case t >= 0x63 && t <= 0x78:
		r.fail(ErrUnsupported, "reference type %#x of the garbage collection or function references proposal", t)
	default:
		r.malformed("unknown value type %#x", t)
	}
}
