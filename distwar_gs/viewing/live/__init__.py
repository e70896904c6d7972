"""The live viewer: a page, served from this process, that shows a model while it trains, or one that is trained.

Three threads. The one that trains (or, for a trained model, the main one) renders, between two steps, with the kernels
of the training; the network's answers pages and sockets; one encodes. They meet at a `Desk`, where every place is
bounded: of each page the newest wish, and the newest picture that it has not taken yet. A page that is slow, gone or
talks rubbish costs nobody else anything. Read in this order:

    orders      what a page may ask for, checked
    desk        what the threads hand each other
    cameras     from a wish to a camera
    subjects    what is looked at: a model in training, a trained one, a part of either
    modes       a look as pixels: colour, depth, normals, ...; ellipsoids draws one of them
    crop        the box outside which nothing is drawn
    pictures    pixels as JPEG, the error against a photo; photos for the page
    site        what the page shows beside pictures, and what it saves into the run folder
    addresses   where the page is, and who may talk to it
    server      sockets
    hook        in a training: pictures between steps, pause, step, checkpoint, export
    page/       the page itself: HTML, CSS and JavaScript without a library
"""
