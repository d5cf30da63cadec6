package config

import (
	"flag"
	"os"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the problems that are found to the golden file")

const (
	goldenFile    = "testdata/problems.golden"
	caseMark      = "=== "
	problemsMark  = "--- problems\n"
	goldenFileDir = "/etc/engine/"
)

// badFile is a case of the golden file: `=== name`, the source, `--- problems`,
// and the message of each problem.
type badFile struct{ name, source, problems string }

func badFiles(t testing.TB) []badFile {
	t.Helper()
	data, err := os.ReadFile(goldenFile)
	if err != nil {
		t.Fatal(err)
	}
	var cases []badFile
	for _, part := range strings.Split("\n"+string(data), "\n"+caseMark)[1:] {
		name, rest, _ := strings.Cut(part+"\n", "\n")
		source, problems, ok := strings.Cut(rest, problemsMark)
		if !ok {
			t.Fatalf("case %q has no line %q", name, problemsMark)
		}
		cases = append(cases, badFile{name, source, strings.TrimRight(problems, "\n")})
	}
	return cases
}

// messages reads a source as /etc/engine/engine.toml and gives what Error says,
// without the directory before each line.
func messages(t *testing.T, source string) string {
	t.Helper()
	_, err := Parse(goldenFileDir+"engine.toml", []byte(source))
	if err == nil {
		return ""
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		rest, ok := strings.CutPrefix(line, goldenFileDir)
		if !ok {
			t.Errorf("a message does not begin with the file: %s", line)
		}
		lines[i] = rest
	}
	return strings.Join(lines, "\n")
}

func TestProblems(t *testing.T) {
	var golden strings.Builder
	for _, c := range badFiles(t) {
		t.Run(c.name, func(t *testing.T) {
			got := messages(t, c.source)
			golden.WriteString(caseMark + c.name + "\n" + c.source + problemsMark + got + "\n")
			switch {
			case got == "":
				t.Errorf("no problem found in\n%s", c.source)
			case got != c.problems && !*update:
				t.Errorf("got\n%s\nwant\n%s", got, c.problems)
			}
		})
	}
	if *update {
		if err := os.WriteFile(goldenFile, []byte(golden.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// What each problem says to programs.
func TestProblemKeys(t *testing.T) {
	src := `volum = 1
[engine]
poll = 1
[[volume]]
name = "a"
plugin = "memory"
[[volume]]
name = "b"
plugin = "nbd"
[volume.options]
"x y" = []
[[volume.path]]
adress = "tcp:h:1"
[[export]]
"new\nline" = 1
`
	_, err := Parse("engine.toml", []byte(src))
	var got []string
	for _, p := range err.(Problems) {
		if p.File != "engine.toml" || p.Msg == "" || p.Fix == "" {
			t.Errorf("incomplete: %+v", p)
		}
		got = append(got, p.Key)
	}
	want := []string{
		`volum`,
		`engine.poll`,
		`volume[2] "b".options."x y"`,
		`volume[2] "b".path[1].address`,
		`volume[2] "b".path[1].adress`,
		`export[1].name`,
		`export[1].frontend`,
		`export[1].volume`,
		`export[1]."new\nline"`,
	}
	same(t, "keys", strings.Join(got, "\n"), strings.Join(want, "\n"))
}

func TestNoProblems(t *testing.T) {
	if err := (Problems{}).Err(); err != nil {
		t.Errorf("no problems are an error: %v", err)
	}
}

// The file of the design is whole.
func TestFileOfTheDesign(t *testing.T) {
	src, err := os.ReadFile("testdata/design.toml")
	if err != nil {
		t.Fatal(err)
	}
	same(t, "problems", messages(t, string(src)), "")
}

// A file of nothing but problems is read in a time that grows with its size
// only: words are guessed for the first few, the rest are still reported.
func TestGuessesEnd(t *testing.T) {
	src := "[engine]\n" + strings.Repeat("[[volume]]\nname = \"v\"\nplugin = \"nul\"\n", maxGuesses)
	_, err := Parse("engine.toml", []byte(src))
	problems := err.(Problems)
	same(t, "problems", len(problems), maxGuesses+maxGuesses-1) // the plugin of each, the name of all but one
	guesses := strings.Count(err.Error(), `write "null"`)
	same(t, "guesses", guesses, 1) // the repeated names come first, and use up all but one
}
