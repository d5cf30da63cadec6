package meter

import "strings"

// Section ids of the binary format (WebAssembly 2.0, 5.5.2).
const (
	secCustom    = 0
	secType      = 1
	secImport    = 2
	secFunction  = 3
	secTable     = 4
	secMemory    = 5
	secGlobal    = 6
	secExport    = 7
	secStart     = 8
	secElement   = 9
	secCode      = 10
	secData      = 11
	secDataCount = 12
	secTag       = 13
)

var sectionNames = [...]string{"custom", "type", "import", "function", "table", "memory",
	"global", "export", "start", "element", "code", "data", "data count", "tag"}

// sectionRank orders the sections; data count stands between element and code.
var sectionRank = [...]int{secType: 1, secImport: 2, secFunction: 3, secTable: 4, secMemory: 5,
	secGlobal: 6, secExport: 7, secStart: 8, secElement: 9, secDataCount: 10, secCode: 11, secData: 12}

const header = "\x00asm\x01\x00\x00\x00"

// span is a range of bytes of the module.
type span struct{ start, end int }

// limitsType is the size of a table or memory.
type limitsType struct {
	min, max uint32
	hasMax   bool
}

type tableType struct {
	elem ValueType
	limitsType
}

type globalType struct {
	typ     ValueType
	mutable bool
}

// rawSection is a section as it came, for those that are copied unchanged.
type rawSection struct {
	id   byte
	name string // custom sections
	body span   // contents without id and size
}

// module is a decoded module: index spaces, and where things are in the bytes.
type module struct {
	bytes []byte
	lim   Limits

	sections  []rawSection
	types     []FuncType
	imports   []Import
	funcTypes []uint32 // type index of each function, imports first
	imported  int      // how many of funcTypes are imports
	tables    []tableType
	memories  []limitsType
	globals   []globalType
	mutable   int // mutable globals
	exports   []Export
	elemTypes []ValueType
	dataCount int // -1 without a data count section
	datas     int
	start     int // function index, -1 without a start section
	bodies    []body
	custom    []CustomSection
	loopCosts []uint32 // of all bodies; body.loops points into it
}

// decode parses and checks a whole module.
func decode(b []byte, lim Limits) (*module, error) {
	m := &module{bytes: b, lim: lim, dataCount: -1, start: -1}
	r := &reader{buf: b, end: len(b)}
	if int64(len(b)) > int64(lim.MaxModuleBytes) {
		r.fail(ErrLimit, "module of %d bytes, the limit is %d", len(b), lim.MaxModuleBytes)
		return nil, r.err
	}
	if len(b) < len(header) || string(b[:len(header)]) != header {
		r.malformed("does not start with the WebAssembly magic number and version 1; is this a .wasm file built as a module (not a component)?")
		return nil, r.err
	}
	r.pos = len(header)
	rank := 0
	for !r.done() {
		rank = m.section(r, rank)
	}
	m.consistent(r)
	if r.err != nil {
		return nil, r.err
	}
	return m, nil
}

// section parses one section; rank is that of the last one that was not custom.
func (m *module) section(r *reader, rank int) int {
	id := r.u8("section id")
	r.section = ""
	size := r.u32("section size")
	if r.ok() && id == secTag {
		r.fail(ErrUnsupported, "tag section: compile without exception handling")
	}
	if r.ok() && id > secTag {
		r.malformed("unknown section id %d", id)
	}
	if !r.ok() {
		return rank
	}
	r.section = sectionNames[id]
	if id != secCustom {
		if sectionRank[id] <= rank {
			r.malformed("section is out of order or appears twice")
			return rank
		}
		rank = sectionRank[id]
	}
	s := r.sub(size, "section")
	raw := rawSection{id: id, body: span{s.pos, s.end}}
	if id == secCustom {
		raw.name = m.customSection(&s, r)
	} else {
		m.contents(id, &s)
		r.finish(&s, "the section")
	}
	if r.ok() {
		m.sections = append(m.sections, raw)
	}
	return rank
}

// contents parses what is inside a section that is not custom.
func (m *module) contents(id byte, r *reader) {
	switch id {
	case secType:
		m.typeSection(r)
	case secImport:
		m.importSection(r)
	case secFunction:
		m.functionSection(r)
	case secTable:
		m.tableSection(r)
	case secMemory:
		m.memorySection(r)
	case secGlobal:
		m.globalSection(r)
	case secExport:
		m.exportSection(r)
	case secStart:
		m.startSection(r)
	case secElement:
		m.elementSection(r)
	case secDataCount:
		m.dataCount = int(r.u32("data count"))
	case secCode:
		m.codeSection(r)
	case secData:
		m.dataSection(r)
	}
}

// consistent checks what only the whole module shows.
func (m *module) consistent(r *reader) {
	if !r.ok() {
		return
	}
	r.section = ""
	if own := len(m.funcTypes) - m.imported; own != len(m.bodies) {
		r.malformed("%d functions are declared and %d have code", own, len(m.bodies))
	}
	if m.dataCount >= 0 && m.dataCount != m.datas {
		r.malformed("data count section says %d, the data section has %d", m.dataCount, m.datas)
	}
}

// customSection remembers the name, and copies the sections meant for the
// engine. A broken name is an error, broken contents are nobody's business.
func (m *module) customSection(s, parent *reader) string {
	name := s.name("custom section name", m.lim.MaxNameBytes)
	if !s.ok() {
		parent.finish(s, "the section")
		return ""
	}
	seen := 0
	for i := range m.sections {
		if m.sections[i].id == secCustom {
			seen++
		}
	}
	if seen >= int(m.lim.MaxCustom) {
		parent.fail(ErrLimit, "more than %d custom sections", m.lim.MaxCustom)
	}
	if strings.HasPrefix(name, CustomPrefix) {
		m.custom = append(m.custom, CustomSection{Name: name, Data: append([]byte(nil), s.buf[s.pos:s.end]...)})
	}
	return name
}

// funcType gives the signature of a function by its index.
func (m *module) funcType(index uint32) *FuncType { return &m.types[m.funcTypes[index]] }
