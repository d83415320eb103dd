// The widget manager asks MathJax 2 to typeset its labels; the book has MathJax 3, and its widgets have no mathematics.
window.MathJax ??= {};
window.MathJax.Hub ??= { Queue() {} };
