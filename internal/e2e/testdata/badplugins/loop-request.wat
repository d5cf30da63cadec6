;; Loops for ever at its first request.
(func $request (param $p i32) (loop $l (br $l)))
