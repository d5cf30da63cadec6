package meter

// emitter writes function bodies with the metering put in.
type emitter struct {
	rw    *rewriter
	dec   decoder
	loops []uint32 // ticks of each open block, 0 for those that are no loop
	asm   asm      // the body under construction
}

// ticks turns static units into what is taken off the budget.
func ticks(units uint32) int64 { return 1 + int64(units)/unitsPerTick }

// depthUnits is what a frame of this size counts against MaxCallDepth.
func depthUnits(frame uint32) int64 { return 1 + int64(frame-1)/FrameUnit }

// body appends the rewritten function i of the module's own, size included.
func (e *emitter) body(out []byte, i int) []byte {
	m := e.rw.m
	b := &m.bodies[i]
	fn := uint32(m.imported + i)
	e.asm.b = append(e.asm.b[:0], m.bytes[b.locals.start:b.locals.end]...)
	if b.calls {
		e.enter(b, m.funcType(fn))
	} else {
		e.asm.charge(e.rw.budget, ticks(b.cost))
	}
	if b.backEdges || b.bulk || b.calls && b.hasReturns {
		e.instructions(b, fn)
	} else {
		e.asm.op(m.bytes[b.locals.end:b.code.end]...)
	}
	if b.calls {
		e.leave(b)
	}
	return appendBytes(out, e.asm.b)
}

// enter charges a function that calls others: budget and depth behind one
// check. The original body becomes a block, so that every way out of it comes
// by leave; its end and its labels stay as they are.
func (e *emitter) enter(b *body, t *FuncType) {
	a, rw := &e.asm, e.rw
	a.subtract(rw.budget, ticks(b.cost))
	a.subtract(rw.depth, depthUnits(b.frame))
	a.indexed(opGlobalGet, rw.budget)
	a.indexed(opGlobalGet, rw.depth)
	a.op(opI64Or)
	a.trapIfNegative()
	a.op(opBlock)
	switch len(t.Results) {
	case 0:
		a.op(blockEmpty)
	case 1:
		a.op(byte(t.Results[0]))
	default:
		a.b = appendS64(a.b, int64(rw.typeIndex(&FuncType{Results: t.Results})))
	}
}

// leave gives the depth back and ends the function.
func (e *emitter) leave(b *body) {
	e.asm.subtract(e.rw.depth, -depthUnits(b.frame))
	e.asm.op(opEnd)
}

// instructions copies the body and puts charges before branches to loops and
// bulk operations, and turns returns into branches where leave must run.
func (e *emitter) instructions(b *body, fn uint32) {
	m, a := e.rw.m, &e.asm
	r := &reader{buf: m.bytes, pos: b.locals.end, end: b.code.end, section: "code"}
	// The indices were all checked by the scanner.
	e.dec.locals = int(^uint32(0) >> 1)
	e.loops = append(e.loops[:0], 0)
	next, copied := b.loops, r.pos
	for !r.done() {
		at := r.pos
		in := e.dec.next(r)
		if in.op == opReturn && b.calls {
			a.op(m.bytes[copied:at]...)
			a.indexed(opBr, uint32(len(e.loops)-1))
			copied = r.pos
			continue
		}
		if cost, helper := e.before(&in); cost > 0 || helper != helperNone {
			a.op(m.bytes[copied:at]...)
			copied = at
			e.insert(cost, helper)
		}
		next = e.track(&in, next)
	}
	a.op(m.bytes[copied:b.code.end]...)
}

// before says what must be charged ahead of an instruction: ticks known now,
// or a helper that charges by the operand on top of the stack.
func (e *emitter) before(in *instr) (cost int64, h helper) {
	switch in.op {
	case opBr, opBrIf:
		cost = int64(e.loops[len(e.loops)-1-int(in.index)])
	case opBrTable:
		for _, l := range e.dec.targets {
			cost = max(cost, int64(e.loops[len(e.loops)-1-int(l)]))
		}
	case opMemoryInit, opMemoryCopy, opMemoryFill:
		h = helperBytes
	case opTableInit, opTableCopy, opTableFill:
		h = helperEntries
	case opMemoryGrow:
		h = helperPages
	case opTableGrow:
		h = helperTable
	}
	return cost, h
}

func (e *emitter) insert(cost int64, h helper) {
	if cost > 0 {
		e.asm.charge(e.rw.budget, cost)
	}
	if h != helperNone {
		e.asm.indexed(opCall, e.rw.helper(h))
	}
}

// track follows the nesting of blocks; next is the loop to come.
func (e *emitter) track(in *instr, next int) int {
	switch in.op {
	case opBlock, opIf:
		e.loops = append(e.loops, 0)
	case opLoop:
		e.loops = append(e.loops, uint32(ticks(e.rw.m.loopCosts[next])))
		next++
	case opEnd:
		e.loops = e.loops[:len(e.loops)-1]
	}
	return next
}
