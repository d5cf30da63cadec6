package sdktest

import "strings"

// passage is a place in the manual, sdk/PLUGIN.md: a chapter, and a section of
// it. A test holds them against the manual's headings.
type passage string

// The passages that say what plugins break.
const (
	inSynopsis   passage = "chapter 1"
	inLife       passage = "chapter 2"
	inCalls      passage = "chapter 3"
	inRecords    passage = "chapter 4"
	inLimits     passage = "chapter 4, Limits on records"
	inRequest    passage = "chapter 5, Request"
	inSending    passage = "chapter 5, Sending"
	inReceiving  passage = "chapter 5, Receiving"
	inCompleting passage = "chapter 5, Completing"
	inDigests    passage = "chapter 6"
	inSession    passage = "chapter 7"
	inHandover   passage = "chapter 7, Handover"
	inDuties     passage = "chapter 8"
	inSandbox    passage = "chapter 9"
	inStores     passage = "chapter 11"
)

const before, after = " (sdk/PLUGIN.md, ", ")"

func (p passage) suffix() string { return before + string(p) + after }

// Cite splits what the suite says into its words and the place in the manual
// that they end with, "" if they name none.
func Cite(text string) (words, place string) {
	i := strings.LastIndex(text, before)
	if i < 0 || !strings.HasSuffix(text, after) {
		return text, ""
	}
	return text[:i], strings.TrimSuffix(text[i+len(before):], after)
}
