;; Says that there are more actions, and gives none.
(func $request (param $p i32) (global.set $more (i32.const 0x80000000)))
(func $rest (global.set $more (i32.const 0x80000000)))
