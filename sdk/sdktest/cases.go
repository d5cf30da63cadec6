package sdktest

// Case is one part of the suite, about one thing.
type Case struct {
	Name    string
	Manual  string // the place in sdk/PLUGIN.md that says what is right
	Offline bool   // it needs no server: Harness.Dial is not called
	run     func(h *Harness, t TB)
}

// Run runs the case. What it finds goes to t.
func (c *Case) Run(t TB, h *Harness) {
	t.Helper()
	if !c.Offline && h.Dial == nil {
		t.Skip("needs a server")
	}
	c.run(h, t)
}

// Run runs the conformance suite.
func Run[T Tester[T]](t T, h Harness) {
	t.Helper()
	runAll(t, &h, Cases())
}

// RunHandover runs the part of the suite that hands connections over, for a
// plugin that must promise it. Use it, with Harness.Other, for pairs of builds.
func RunHandover[T Tester[T]](t T, h Harness) {
	t.Helper()
	if !h.handsOver(t) {
		t.Fatal("the limits do not promise handover" + inHandover.suffix())
	}
	runAll(t, &h, handoverCases())
}

func runAll[T Tester[T]](t T, h *Harness, cases []Case) {
	t.Helper()
	for i := range cases {
		t.Run(cases[i].Name, func(t T) { cases[i].Run(t, h) })
	}
}

// Cases are the parts of the suite, in the order in which they are best read.
func Cases() []Case {
	cases := []Case{
		{Name: "manifest", Manual: string(inSynopsis), Offline: true,
			run: func(h *Harness, t TB) { checkManifest(t, h.Manifest) }},
		{"opened", string(inLife), true, (*Harness).openedAlone},
		{"garbage state", string(inHandover), true, (*Harness).garbageStates},
		{"pure", string(inLife), true, (*Harness).pure},
	}
	for _, cut := range cuts {
		cases = append(cases,
			Case{"login/" + cut.String(), string(inReceiving), false, func(h *Harness, t TB) { h.login(t, cut) }},
			Case{"data/" + cut.String(), string(inReceiving), false, func(h *Harness, t TB) { h.data(t, cut) }})
	}
	cases = append(cases,
		Case{"operations", string(inRequest), false, (*Harness).operations},
		Case{"transfers", string(inSending), false, (*Harness).transfers},
		Case{"crowd", string(inCalls), false, (*Harness).crowd},
		Case{"abort", string(inCompleting), false, (*Harness).abort},
		Case{"idle and unknown events", string(inCalls), false, (*Harness).unknown},
		Case{"longer records", string(inCalls), false, (*Harness).longer},
		Case{"goodbye", string(inLife), false, (*Harness).goodbye},
		Case{"closed early", string(inLife), false, (*Harness).closedEarly},
		Case{"second connection", string(inSession), false, (*Harness).second})
	return append(cases, handoverCases()...)
}

var cuts = [...]Cut{Whole, Single, Random, Guessed}

func handoverCases() []Case {
	var cases []Case
	add := func(name string, run func(h *Harness, t TB)) {
		cases = append(cases, Case{"handover/" + name, string(inHandover), false, func(h *Harness, t TB) {
			if !h.handsOver(t) {
				t.Skip("the limits do not promise handover")
			}
			run(h, t)
		}})
	}
	for _, cut := range cuts {
		add("load/"+cut.String(), func(h *Harness, t TB) { h.handoverLoad(t, cut) })
	}
	add("refused", (*Harness).handoverRefused)
	add("bad states", (*Harness).badStates)
	add("save in login", (*Harness).saveInLogin)
	for _, cut := range cuts[:3] {
		add("save under load/"+cut.String(), func(h *Harness, t TB) { h.saveUnderLoad(t, cut) })
	}
	return cases
}

// handsOver tells whether the limits promise handover.
func (h *Harness) handsOver(t TB) bool {
	x := h.open(t, Options{})
	x.end()
	return x.Limits.Handover
}
