package meter

// body is what the first pass keeps of a function.
type body struct {
	code       span   // size not included: local declarations and instructions
	locals     span   // the local declarations
	cost       uint32 // units of one run through the body, each loop once
	loops      int    // index of its first loop in module.loopCosts
	frame      uint32 // estimated stack frame in bytes
	calls      bool   // calls a function of the module, or one by table
	bulk       bool   // holds an instruction that is charged at run time
	backEdges  bool   // holds a branch to a loop
	hasReturns bool   // holds a return instruction
}

// Static cost of instructions, in units; a tick is unitsPerTick of them. Most
// cost 1. The dear ones are those that may miss the caches, divide, or leave
// the generated code.
const (
	unitsPerTick = 16
	costLoad     = 4
	costStore    = 2
	costDivide   = 8
	costCall     = 2
	costIndirect = 4
	costHostCall = 512
	costRuntime  = 512 // implemented by a call into the runtime
	costBulk     = 16  // on top of what the length is charged
)

// label is an open block of the function under scan.
type label struct {
	loop     bool
	isIf     bool // an if without its else so far
	loopCost uint32
	loopID   int // in module.loopCosts
}

// scanner runs over function bodies. It is reused from body to body.
type scanner struct {
	m      *module
	dec    decoder
	labels []label

	units  uint32 // cost so far
	values uint64 // values that the compiler may have to keep
	joins  uint64 // places where control flow meets
}

func newScanner(m *module) *scanner { return &scanner{m: m, dec: decoder{m: m}} }

// summarize checks a whole function body and gives its costs.
func (s *scanner) summarize(r *reader, fn uint32) body {
	b := body{code: span{r.pos, r.end}, loops: len(s.m.loopCosts)}
	t := s.m.funcType(fn)
	n := s.declarations(r)
	b.locals = span{b.code.start, r.pos}
	s.dec.locals = len(t.Params) + n
	s.units, s.values, s.joins = 1+uint32(n)/8, 0, 1
	s.labels = append(s.labels[:0], label{})
	for len(s.labels) > 0 && r.ok() {
		s.step(r, &b)
	}
	b.cost = s.units
	b.frame = s.frame(len(t.Params), len(t.Results))
	if r.ok() && b.frame > s.m.lim.MaxFrameBytes {
		r.fail(ErrLimit, "needs a stack frame of up to %d bytes, the limit is %d: split the function, or use fewer locals", b.frame, s.m.lim.MaxFrameBytes)
	}
	return b
}

// declarations reads the local declarations and gives how many locals there are.
func (s *scanner) declarations(r *reader) int {
	groups := r.count("groups of locals", s.m.lim.MaxLocals, 2)
	total := uint64(0)
	for i := 0; i < groups && r.ok(); i++ {
		total += uint64(r.u32("number of locals"))
		r.valueType()
		if r.ok() && total > uint64(s.m.lim.MaxLocals) {
			r.fail(ErrLimit, "%d locals or more, the limit is %d", total, s.m.lim.MaxLocals)
		}
	}
	return int(min(total, uint64(s.m.lim.MaxLocals)))
}

// step checks one instruction and adds up what it costs.
func (s *scanner) step(r *reader, b *body) {
	in := s.dec.next(r)
	s.units += s.cost(&in)
	s.values += 2
	switch in.op {
	case opBlock, opLoop, opIf:
		s.open(r, &in)
	case opElse:
		if top := &s.labels[len(s.labels)-1]; !top.isIf {
			r.malformed("else without if")
		} else {
			top.isIf = false
		}
	case opEnd:
		s.close()
	case opBr, opBrIf:
		b.backEdges = s.target(r, in.index) || b.backEdges
	case opBrTable:
		for _, l := range s.dec.targets {
			b.backEdges = s.target(r, l) || b.backEdges
		}
		s.values += uint64(len(s.dec.targets))
		s.units += uint32(len(s.dec.targets)) / 64
	case opReturn:
		b.hasReturns = true
	case opCall:
		s.call(s.m.funcTypes, in.index)
		b.calls = b.calls || int(in.index) >= s.m.imported
	case opCallIndirect:
		s.signature(&s.m.types[in.index])
		b.calls = true
	case opMemoryGrow, opMemoryInit, opMemoryCopy, opMemoryFill, opTableInit, opTableCopy, opTableGrow, opTableFill:
		b.bulk = true
	}
}

// open starts a block.
func (s *scanner) open(r *reader, in *instr) {
	if len(s.labels) > int(s.m.lim.MaxNesting) {
		r.fail(ErrLimit, "more than %d blocks inside each other", s.m.lim.MaxNesting)
		return
	}
	l := label{isIf: in.op == opIf}
	if in.op == opLoop {
		l.loop, l.loopID, l.loopCost = true, len(s.m.loopCosts), s.units
		s.m.loopCosts = append(s.m.loopCosts, 0)
	}
	s.joins += 2
	s.values += 2 * uint64(in.params+in.results)
	s.labels = append(s.labels, l)
}

// close ends the innermost block; a loop's cost is what was added inside.
func (s *scanner) close() {
	top := s.labels[len(s.labels)-1]
	if top.loop {
		s.m.loopCosts[top.loopID] = s.units - top.loopCost
	}
	s.labels = s.labels[:len(s.labels)-1]
}

// target checks a label and says whether it is a loop's.
func (s *scanner) target(r *reader, depth uint32) bool {
	if !r.ok() {
		return false
	}
	if int64(depth) >= int64(len(s.labels)) {
		r.malformed("branch to label %d, %d are open", depth, len(s.labels))
		return false
	}
	return s.labels[len(s.labels)-1-int(depth)].loop
}

func (s *scanner) call(types []uint32, index uint32) {
	if int(index) < len(types) {
		s.signature(&s.m.types[types[index]])
	}
}

func (s *scanner) signature(t *FuncType) { s.values += uint64(len(t.Params) + len(t.Results)) }

// cost gives the static units of an instruction.
func (s *scanner) cost(in *instr) uint32 {
	switch op := in.op; {
	case op >= 0x28 && op <= 0x35:
		return costLoad
	case op >= 0x36 && op <= 0x3e:
		return costStore
	case op == opCall && int(in.index) < s.m.imported:
		return costHostCall
	case op == opCall:
		return costCall
	case op == opCallIndirect:
		return costIndirect
	case op == opRefFunc || op == opMemoryGrow || op == opTableGrow:
		return costRuntime
	case op >= opMemoryInit: // bulk memory and tables
		return costBulk
	}
	switch in.op {
	case 0x6d, 0x6e, 0x6f, 0x70, 0x7f, 0x80, 0x81, 0x82, 0x91, 0x95, 0x9f, 0xa3: // divide, remainder, root
		return costDivide
	}
	return 1
}

// frame estimates the stack frame of the function just scanned. The compiler
// gives every spilled value a slot of its own, so what counts is how many
// values there can be: those of the instructions, and for each place where
// control flow meets one per local and mutable global.
func (s *scanner) frame(params, results int) uint32 {
	variables := uint64(s.dec.locals + s.m.mutable + 4)
	slots := s.values + s.joins*variables + 2*uint64(params+results)
	return uint32(min(frameFixed+8*slots, 1<<32-1))
}

// frameFixed covers return address, frame pointer and saved registers.
const frameFixed = 416
